"""Conversations: which forms of a source are accepted, how they are brought into one, and what a row keeps of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.conversations import (
    Conversation,
    Turn,
    conversations_extra,
    media_parts,
    without_media_marks,
)
from shared.errors import RefusedInput


def turn(speaker: object, value: object = "text") -> dict[str, object]:
    return {"from": speaker, "value": value}


QUESTION, ANSWER = turn("human", "<image>\nWhat is it?"), turn("gpt", " A cat. ")


def said(value: object) -> tuple[str | None, list[tuple[str, str]]]:
    conversation = Conversation.parse(value)
    return conversation.system, [(one.question, one.answer) for one in conversation.turns]


def test_every_turn_is_kept() -> None:
    more = [turn("user", "Of what color?"), turn("assistant", "Gray.")]
    conversation = Conversation.parse([QUESTION, ANSWER, *more])
    assert conversation == Conversation(
        (Turn("<image>\nWhat is it?", " A cat. "), Turn("Of what color?", "Gray.")), system=None
    )
    assert conversation.to_json() == [QUESTION, ANSWER, turn("human", "Of what color?"), turn("gpt", "Gray.")]


def test_a_system_turn_comes_first() -> None:
    value = [turn("system", "Be brief."), QUESTION, ANSWER]
    conversation = Conversation.parse(value)
    assert (conversation.system, len(conversation.turns)) == ("Be brief.", 1)
    assert conversation.to_json() == value


@pytest.mark.parametrize(
    ("value", "system", "turns"),
    [
        ("h:a g:b", None, [("a", "b")]),
        ("g:first h:a g:b", None, [("a", "b")]),
        ("s:sys g:first h:a g:b", "sys", [("a", "b")]),
        ("h:a h:b g:c", None, [("a\nb", "c")]),
        ("h:a g:b g:c h:d g:e", None, [("a", "b\nc"), ("d", "e")]),
        ("h:a g:b h:c", None, [("a", "b")]),
        ("h:a g: h:b g:c", None, [("b", "c")]),
        ("h: g:b", None, [("", "b")]),
        ("s:x s:y h:a g:b", "x\ny", [("a", "b")]),
        ("s: h:a g:b", None, [("a", "b")]),
        ("h:a g:b s: h:c g:d", None, [("a", "b"), ("c", "d")]),
        ("s:x h:a s: h:b g:c s:", "x", [("a\nb", "c")]),
    ],
)
def test_unusual_orders_are_brought_into_one_form(value: str, system: str | None, turns: list[tuple[str, str]]) -> None:
    names = {"h": "human", "g": "gpt", "s": "system"}
    spoken = [turn(names[one[0]], one[2:]) for one in value.split(" ")]
    assert said(spoken) == (system, turns)


SPOKEN = st.lists(st.tuples(st.sampled_from(["human", "gpt", "system"]), st.sampled_from(["", " ", "a", "b\nc"])))


@given(SPOKEN)
def test_what_is_accepted_can_be_read_back(spoken: list[tuple[str, str]]) -> None:
    try:
        conversation = Conversation.parse([turn(*one) for one in spoken])
    except RefusedInput:
        return
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert Conversation.parse(conversation.to_json()) == conversation
    assert all(one.answer.strip() for one in conversation.turns)


def test_messages_in_the_form_of_openai() -> None:
    picture = {"type": "image_url", "image_url": {"url": "a.png"}}
    content = [picture, {"type": "text", "text": "What is it?"}]
    value = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "A cat."},
    ]
    assert said(value) == ("Be brief.", [("<image>\nWhat is it?", "A cat.")])
    assert list(media_parts(value)) == [("image", "a.png")]
    assert list(media_parts([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}])) == [
        ("video", "a.mp4")
    ]


def test_fields_that_a_table_adds_with_null_are_absent() -> None:
    nulls = {"from": None, "value": None}
    parts = [{"type": "text", "text": "q", "image_url": None}, {"type": "image", "text": None, "image_url": None}]
    value = [{"role": "user", "content": parts, **nulls}, {"role": "assistant", "content": "a", **nulls}]
    assert said(value) == said([*value, turn("system", None)]) == (None, [("q\n<image>", "a")])


def test_a_row_keeps_the_first_question_and_answer_and_the_other_conversations() -> None:
    stored = [QUESTION, ANSWER]
    first = {"conversations": stored, "question": "What is it?", "answer": "A cat."}
    one, other = Conversation.parse(stored), Conversation((Turn("q", "a"),))
    assert conversations_extra([]) == {}
    assert conversations_extra([one]) == first
    others = [[turn("human", "q"), turn("gpt", "a")]]
    assert conversations_extra([one, other]) == {**first, "other_conversations": others}


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("hello", "expected a list of {from, value}, got 'hello'"),
        ([], "expected a list of {from, value}"),
        ({"from": "human"}, "expected a list"),
        ([turn("robot")], "turn 1: expected `from` one of human, user, gpt, assistant"),
        ([turn("human"), turn("gpt", 7)], "turn 2: expected .* a string `value`"),
        ([turn("human"), "A cat."], "turn 2: "),
        ([{"role": "user", "content": [7]}], "turn 1: "),
        ([turn("human")], "an answer of gpt, got human$"),
        ([turn("gpt")], "got gpt$"),
        ([turn("system")], "got system$"),
        ([turn("system", None)], "got system$"),
        ([turn("gpt"), turn("human")], "got gpt, human$"),
        ([turn("human"), turn("gpt", " ")], "got human, gpt$"),
        ([turn("human"), turn("gpt"), turn("system"), turn("human"), turn("gpt")], "at most one system turn, before"),
    ],
)
def test_any_other_form_is_refused(value: object, detail: str) -> None:
    with pytest.raises(RefusedInput, match=detail) as refused:
        Conversation.parse(value)
    assert refused.value.reason == "bad_entry"


def test_stored_conversations_are_read_as_they_are() -> None:
    """Datasets of earlier versions may have answers without text; the number of turns must not change."""
    assert Conversation.from_json([QUESTION, turn("gpt", "")]).turns == (Turn("<image>\nWhat is it?", ""),)
    for value in ([turn("gpt"), turn("human")], [turn("human"), turn("human"), turn("gpt")], [turn("system")]):
        with pytest.raises(RefusedInput, match="then human and gpt in turn"):
            Conversation.from_json(value)


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
