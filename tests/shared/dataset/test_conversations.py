"""Conversations in LLaVA's form: which orders of turns are accepted, and what a row keeps of them."""

from __future__ import annotations

import pytest

from shared.dataset.conversations import Conversation, Turn, conversation_extra, without_media_marks
from shared.errors import RefusedInput


def turn(speaker: object, value: object = "text") -> dict[str, object]:
    return {"from": speaker, "value": value}


QUESTION, ANSWER = turn("human", "<image>\nWhat is it?"), turn("gpt", " A cat. ")


def test_every_turn_is_kept() -> None:
    more = [turn("user", "Of what color?"), turn("assistant", "Gray.")]
    conversation = Conversation.from_json([QUESTION, ANSWER, *more])
    assert conversation == Conversation(
        (Turn("<image>\nWhat is it?", " A cat. "), Turn("Of what color?", "Gray.")), system=None
    )
    assert conversation.to_json() == [QUESTION, ANSWER, turn("human", "Of what color?"), turn("gpt", "Gray.")]


def test_a_system_turn_comes_first() -> None:
    value = [turn("system", "Be brief."), QUESTION, ANSWER]
    conversation = Conversation.from_json(value)
    assert (conversation.system, len(conversation.turns)) == ("Be brief.", 1)
    assert conversation.to_json() == value


def test_a_row_also_keeps_the_first_question_and_answer() -> None:
    stored = [QUESTION, ANSWER]
    assert conversation_extra(stored) == {"conversations": stored, "question": "What is it?", "answer": "A cat."}


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("hello", "expected a list of {from, value}, got 'hello'"),
        ([], "expected a list of {from, value}"),
        ({"from": "human"}, "expected a list"),
        ([turn("robot")], "turn 1: expected `from` one of human, user, gpt, assistant, system"),
        ([turn("human"), turn("gpt", 7)], "turn 2: expected .* a string `value`"),
        ([turn("human"), "A cat."], "turn 2: "),
        ([turn("human")], "then human and gpt in turn, got human$"),
        ([turn("gpt")], "got gpt$"),
        ([turn("system")], "got system$"),
        ([turn("gpt"), turn("human")], "got gpt, human$"),
        ([turn("human"), turn("gpt"), turn("human")], "got human, gpt, human$"),
        ([turn("human"), turn("human"), turn("gpt")], "got human, human, gpt$"),
        ([turn("human"), turn("gpt"), turn("system"), turn("human"), turn("gpt")], "at most one system turn, then"),
        ([turn("system"), turn("system"), turn("human"), turn("gpt")], "at most one system turn, then"),
    ],
)
def test_any_other_form_is_refused(value: object, detail: str) -> None:
    with pytest.raises(RefusedInput, match=detail) as refused:
        Conversation.from_json(value)
    assert refused.value.reason == "bad_entry"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<video>", "What?"),
        ("what is <image> this?", "what is  this?"),
        (" untouched ", " untouched "),
        ("<image>", ""),
    ],
)
def test_media_marks_are_dropped_with_their_blank_line(text: str, expected: str) -> None:
    assert without_media_marks(text) == expected
