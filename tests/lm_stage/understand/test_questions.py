"""Questions about the rows of a dataset, and from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_stage.understand.questions import Question, list_questions
from shared.dataset.readers import KeyReader
from shared.errors import UsageError
from tests.support import handmade
from tests.support.prompts import write_entries


def test_one_question_is_asked_about_every_row(tmp_path: Path) -> None:
    images = KeyReader(handmade.make(tmp_path / "codes"))
    described = list_questions(None, None, images)
    assert [(question.key, question.images) for question in described] == [(key, (key,)) for key in images]
    assert {question.text for question in described} == {"Please describe the image."}
    assert {question.text for question in list_questions("why?", None, images)} == {"why?"}
    assert list_questions("why?", None, None) == []


def test_a_file_has_questions_of_its_own(tmp_path: Path) -> None:
    entries = [
        {"question": "a"},
        {"text": "b", "key": 7, "images": ["one", "two"]},
        {"question": "c", "image": "one"},
        {"question": "d", "video": "clip"},
    ]
    assert list_questions(None, str(write_entries(tmp_path / "q.jsonl", entries)), None) == [
        Question("000001", "a"),
        Question("7", "b", ("one", "two")),
        Question("000003", "c", ("one",)),
        Question("000004", "d", ("clip",)),
    ]


@pytest.mark.parametrize(
    ("entry", "detail"),
    [
        ({"question": " "}, "line 2: expected `question`"),
        ({}, "line 2: expected `question`"),
        (3, "line 2: expected `question`"),
        ({"question": "x", "images": "one"}, "line 2: `images`"),
        ({"question": "x", "image": 1}, "line 2: `images`"),
        ({"question": "\ud800"}, "line 2: not valid Unicode"),
        ({"question": "x", "key": "\ud800"}, "line 2: not valid Unicode"),
    ],
)
def test_a_bad_line_is_refused_alone(entry: Any, detail: str, tmp_path: Path) -> None:
    path = write_entries(tmp_path / "q.jsonl", [{"question": "before"}, entry, {"question": "after"}])
    before, bad, after = list_questions(None, str(path), None)
    assert (before.refusal, after.refusal) == (None, None)
    assert bad.refusal is not None
    assert bad.refusal[0] == "bad_entry"
    assert detail in bad.refusal[1]


@pytest.mark.parametrize("content", [None, b"{", b"\xff"])
def test_a_file_that_cannot_be_read_stops_the_job(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as questions"):
        list_questions(None, str(path), None)


def test_equal_keys_stop_the_job(tmp_path: Path) -> None:
    path = write_entries(tmp_path / "q.jsonl", [{"question": "a", "key": "k"}, {"question": "b", "key": "k"}])
    with pytest.raises(UsageError, match="line 2: key 'k' is taken"):
        list_questions(None, str(path), None)
