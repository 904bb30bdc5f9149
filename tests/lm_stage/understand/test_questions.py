"""Questions about the rows of a dataset, and from a file."""

from __future__ import annotations

import os
from pathlib import Path

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


def test_keys_have_the_names_that_are_given(tmp_path: Path) -> None:
    entries = [{"question": "a", "question_id": 7}, {"question": "b", "key": "x", "id": 8}]
    path, reports = str(write_entries(tmp_path / "q.jsonl", entries)), []
    assert [question.key for question in list_questions(None, path, None)] == ["7", "x"]
    keys_of_0_1 = [question.key for question in list_questions(None, path, None, reports.append, ("key",))]
    assert keys_of_0_1 == ["000001", "x"]
    assert reports == []


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ('{"question": " "}', "empty_prompt", "line 2: expected `question`"),
        ("{}", "empty_prompt", "line 2: expected `question`"),
        ("3", "bad_entry", "line 2: expected text or an object, got int"),
        ("null", "bad_entry", "line 2: expected text or an object, got NoneType"),
        ('{"question": 5}', "bad_entry", "line 2: `question`: expected text, got 5"),
        ('{"question": "x", "images": "one"}', "bad_entry", "line 2: `images`"),
        ('{"question": "x", "images": [null]}', "bad_entry", "line 2: `images`"),
        ('{"question": "x", "image": 1}', "bad_entry", "line 2: `images`"),
        ('{"question": "x", "key": [1]}', "bad_entry", "line 2: `key`"),
        ('{"question": "\\ud800"}', "bad_entry", "line 2: `question`: not valid Unicode"),
        ('{"question": "x", "key": "\\ud800"}', "bad_entry", "line 2: `key`: not valid Unicode"),
        ('{"question": "x', "bad_entry", "line 2: not JSON"),
        ("[" * 100_000, "bad_entry", "line 2: not JSON: nested too deeply"),
        ('{"key": ' + "7" * 5000 + "}", "bad_entry", "line 2: not JSON: an integer of 5000 digits"),
        ('{"question": "x", "key": "a"}', "duplicate_key", "line 2: key 'a' is taken by line 1"),
    ],
)
def test_a_bad_line_is_refused_alone(line: str, reason: str, detail: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f'{{"question": "before", "key": "a"}}\n{line}\n{{"question": "after"}}\n')
    before, bad, after = list_questions(None, str(path), None)
    assert (before.refusal, after.refusal) == (None, None)
    assert bad.refusal is not None
    assert bad.refusal[0] == reason
    assert detail in bad.refusal[1]
    assert len({before.key, bad.key, after.key}) == 3


def test_null_is_absent_and_common_names_are_accepted(tmp_path: Path) -> None:
    entries = [
        {"question": None, "text": "a", "key": None, "id": 3, "images": None, "image": "one", "video": None},
        {"question_id": 4, "prompt": "b", "image": None},
        "c",
    ]
    expected = [Question("3", "a", ("one",)), Question("4", "b"), Question("000003", "c")]
    for name in ("q.jsonl", "q.json"):
        assert list_questions(None, str(write_entries(tmp_path / name, entries)), None) == expected


def test_fields_without_a_meaning_are_reported(tmp_path: Path) -> None:
    entries = [{"question": "a", "category": "x"}, {"question": "b", "category": 1, "imgaes": []}, {"question": "c"}]
    reports: list[str] = []
    questions = list_questions(None, str(write_entries(tmp_path / "q.jsonl", entries)), None, reports.append)
    assert [question.refusal for question in questions] == [None] * 3
    assert len(reports) == 1
    assert "'category' (2), 'imgaes' (1)" in reports[0]


def test_a_file_that_cannot_be_read_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "q.json").write_text("{")
    for name in ("missing.jsonl", "device.jsonl", "pipe.jsonl", "folder.jsonl", "q.json"):
        with pytest.raises(UsageError, match=name):
            list_questions(None, str(tmp_path / name), None)
