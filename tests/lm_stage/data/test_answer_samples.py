"""Questions and answers about images and videos, from conversations, fields or captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_stage.data.sequences import SequenceBuilder
from lm_stage.text.renderer import CodeGrid
from lm_stage.text.templates import CHAT, DEFAULT_QUESTION, DEFAULT_VIDEO_QUESTION
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.errors import UsageError
from tests.support.sft_samples import (
    assert_lengths_are_true,
    extra_row,
    image_row,
    opened,
    video_row,
    write_dataset,
)


def turns_of(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


def test_lengths_match_the_sequences(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        extra_row(0),
        extra_row(1, question="what is this?"),
        extra_row(2, answer="é" * 20),
        extra_row(3, question="", answer="b"),
    ]
    path = write_dataset(tmp_path / "codes", [rows])
    for task in ("understand", "text"):
        assert_lengths_are_true(opened(path, builder, task))


def test_questions_and_answers_come_from_the_row_or_its_caption(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        image_row(0),
        extra_row(1, None, question="no answer"),
        extra_row(2, question="what is this?", answer="a pear"),
        image_row(3, text=None),
        extra_row(4, None, answer="a green pear"),
        extra_row(5, question="where?"),
        extra_row(6, answer=""),
        extra_row(7, prompt_tokens=3),
    ]
    expected = {
        "k0": (DEFAULT_QUESTION, "caption 0"),
        "k2": ("what is this?", "a pear"),
        "k4": (DEFAULT_QUESTION, "a green pear"),
        "k5": ("where?", "a caption"),
        "k7": (DEFAULT_QUESTION, "a caption"),
    }
    path = write_dataset(tmp_path / "codes", [rows[:3], rows[3:]])
    answers, texts = opened(path, builder, "understand"), opened(path, builder, "text")
    assert answers.keys == texts.keys == list(expected)
    for index, (key, (question, answer)) in enumerate(expected.items()):
        ids = builder.encode(answer)
        grid = CodeGrid(rows[int(key[1:])].codes_THW, is_video=False)
        question_ids = builder.encode(CHAT.question_text(question, follows_grid=True))
        answered = builder.conversation([(question_ids, ids)], grid)
        assert answers.sequence(index, False).token_ids.tolist() == answered.token_ids.tolist()
        assert answers.sequence(index, True).token_ids.tolist() == answered.token_ids.tolist(), "no caption to drop"
        assert texts.sequence(index, False).token_ids.tolist() == builder.text(ids).token_ids.tolist()


def test_questions_about_videos(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [video_row(0, 2), video_row(1, 1, extra_json=json.dumps({"question": "who?", "answer": "a pear"}))]
    samples = opened(write_dataset(tmp_path / "d", [rows], format=SEQUENCE_FORMAT), builder, "understand")
    pairs = [(DEFAULT_VIDEO_QUESTION, "a pear"), ("who?", "a pear")]
    for index, (question, answer) in enumerate(pairs):
        asked, answer_ids = builder.encode(CHAT.question_text(question, follows_grid=True)), builder.encode(answer)
        expected = builder.conversation([(asked, answer_ids)], CodeGrid.video(rows[index].codes_THW))
        assert samples.sequence(index, False).token_ids.tolist() == expected.token_ids.tolist()


def test_every_turn_of_a_conversation_is_in_the_sequence(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        extra_row(0, conversations=turns_of("<image>\nwhat?", "a pear", "and now?", "a red apple")),
        extra_row(1),
        extra_row(2, conversations=turns_of("what is <image> this?", "7"), question="never asked"),
        extra_row(3, conversations=[]),
        extra_row(4, conversations=turns_of("what?", "<image>")),
        extra_row(5, conversations={}),
        extra_row(6, conversations=""),
    ]
    path = write_dataset(tmp_path / "codes", [rows])
    samples = opened(path, builder, "understand")
    assert samples.keys == ["k0", "k1", "k2"], "no answer, no sample"
    assert_lengths_are_true(samples)
    expected = [
        [
            (builder.encode(CHAT.question_text("what?", follows_grid=True)), "a pear"),
            (builder.encode(CHAT.question_text("and now?", turn=1, follows_grid=True)), "a red apple"),
        ],
        [(builder.encode(CHAT.question_text(DEFAULT_QUESTION, follows_grid=True)), "a caption")],
        [(builder.encode(CHAT.question_text("what is  this?", follows_grid=True)), "7")],
    ]
    for index, turns in enumerate(expected):
        encoded = [(asked, builder.encode(answer)) for asked, answer in turns]
        built = builder.conversation(encoded, CodeGrid(rows[index].codes_THW, is_video=False))
        sequence = samples.sequence(index, False)
        assert sequence.token_ids.tolist() == built.token_ids.tolist()
        assert sequence.weights.tolist() == built.weights.tolist()
    texts = opened(path, builder, "text")
    assert_lengths_are_true(texts)
    lines = builder.text(builder.encode("a pear\na red apple"))
    assert texts.sequence(0, False).token_ids.tolist() == lines.token_ids.tolist()


@pytest.mark.parametrize(
    "conversation",
    [
        5,
        "human",
        {"from": "human"},
        ["human", "gpt"],
        [{"from": "human", "value": "what?"}],
        [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}],
        [{"from": "human"}, {"from": "gpt", "value": "a"}],
        [*turns_of("what?", "a"), {"from": "system", "value": "b"}, *turns_of("what?", "a")],
        turns_of("what?", "a \ud800"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_skipped_with_the_reason(
    conversation: Any, tmp_path: Path, builder: SequenceBuilder
) -> None:
    path = write_dataset(tmp_path / "codes", [[image_row(0), extra_row(1, conversations=conversation)]])
    for task in ("understand", "text"):
        samples = opened(path, builder, task)
        assert samples.keys == ["k0"]
        assert [(key, bool(reason)) for key, reason in samples.unusable] == [("k1", True)]
        assert not samples.without_text
    only = write_dataset(tmp_path / "only", [[extra_row(1, conversations=conversation)]])
    with pytest.raises(UsageError, match=rf"{only}: contains no samples for task text; k1: .*"):
        opened(only, builder, "text")


def test_conversations_of_earlier_versions_are_repaired_like_those_of_a_source(
    tmp_path: Path, builder: SequenceBuilder
) -> None:
    stored = [{"from": "gpt", "value": "dropped"}, *turns_of("what?", "a pear"), {"from": "human", "value": "and?"}]
    path = write_dataset(tmp_path / "codes", [[extra_row(0, conversations=stored)]])
    samples = opened(path, builder, "text")
    assert not samples.unusable
    expected = builder.text(builder.encode("a pear")).token_ids.tolist()
    assert samples.sequence(0, False).token_ids.tolist() == expected


def test_a_system_turn_replaces_the_published_system_prompt(tmp_path: Path, builder: SequenceBuilder) -> None:
    turns = turns_of("what?", "a pear", "and now?", "a red apple")
    rows = [
        extra_row(0, conversations=[{"from": "system", "value": "Be brief."}, *turns]),
        extra_row(1, conversations=turns),
    ]
    samples = opened(write_dataset(tmp_path / "codes", [rows]), builder, "understand")
    assert_lengths_are_true(samples)
    for index, opening in enumerate(("Be brief. USER: ", CHAT.opening())):
        image = builder.renderer.render([CodeGrid(rows[index].codes_THW, is_video=False)])
        begin = [builder.layout.bos, *builder.encode(opening).tolist(), *image]
        assert samples.sequence(index, False).token_ids[: len(begin)].tolist() == begin


def test_every_conversation_of_a_row_is_a_sample(tmp_path: Path, builder: SequenceBuilder) -> None:
    first, second, empty = turns_of("<image>\nwhat?", "a pear"), turns_of("where?", "here"), turns_of("why?", "")
    rows = [
        extra_row(0, conversations=first, other_conversations=[second, empty]),
        extra_row(1),
        extra_row(2, texts=["a caption", "another"]),
    ]
    path = write_dataset(tmp_path / "codes", [rows])
    answers, texts = opened(path, builder, "understand"), opened(path, builder, "text")
    assert answers.keys == texts.keys == ["k0", "k0", "k1", "k2", "k2"]
    assert_lengths_are_true(answers)
    expected = ["a pear", "here", "a caption", "a caption", "another"]
    for index, answer in enumerate(expected):
        assert (
            texts.sequence(index, False).token_ids.tolist() == builder.text(builder.encode(answer)).token_ids.tolist()
        )
    grid = CodeGrid(rows[0].codes_THW, is_video=False)
    asked = builder.encode(CHAT.question_text("where?", follows_grid=True))
    built = builder.conversation([(asked, builder.encode("here"))], grid)
    assert answers.sequence(1, False).token_ids.tolist() == built.token_ids.tolist()
