"""Answers on disk: what a killed job leaves, and what a finished file holds."""

from __future__ import annotations

import json
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.recorded_sampling import sampling_to_json
from lm_stage.understand.answer_file import Answer, AnswerFile, AnswerSettings, recorded_settings
from shared.errors import ConfigMismatchError, DatasetError, RelayError, UsageError
from shared.tokens.grid_formats import UNIVLA

SETTINGS = AnswerSettings(
    model={"model": "ab", "text": "cd", "layout": {"bos": 1}},
    images=None,
    question="why?",
    template="chat",
    max_new_tokens=5,
    sampling=sampling_to_json(SamplingOptions(top_k=2048, top_p=1.0, greedy=True)),
    seed=3,
)
ANSWERS = [Answer("b", "why?", ("one",), "because", "eos", 4), Answer("a", "", (), error="bad_entry: line 2")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def finish(path: Path) -> bytes:
    with closing(AnswerFile(path, SETTINGS)) as file:
        for answer in ANSWERS:
            if answer.key not in file.answers:
                file.add(answer)
        file.finish(["a", "b"])
    assert names(path) == ["answers.jsonl", "answers.jsonl.settings.json"]
    return path.read_bytes()


def test_lines_are_in_the_order_of_the_questions_and_have_every_field(path: Path) -> None:
    assert [json.loads(line) for line in finish(path).splitlines()] == [
        {
            "key": "a",
            "question": "",
            "images": [],
            "answer": None,
            "finish_reason": None,
            "tokens": 0,
            "error": "bad_entry: line 2",
        },
        {
            "key": "b",
            "question": "why?",
            "images": ["one"],
            "answer": "because",
            "finish_reason": "eos",
            "tokens": 4,
            "error": None,
        },
    ]


def test_cut_at_any_byte_it_resumes_to_the_same_file(path: Path, tmp_path: Path) -> None:
    whole = finish(path)
    partial = partial_content(tmp_path / "other")
    for cut in range(len(partial) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "answers.jsonl.settings.json").write_bytes((tmp_path / "answers.jsonl.settings.json").read_bytes())
        (folder / "answers.jsonl.partial").write_bytes(partial[:cut])
        (folder / "answers.jsonl.1-ab.tmp").touch()
        assert finish(folder / "answers.jsonl") == whole


def partial_content(folder: Path) -> bytes:
    folder.mkdir()
    with closing(AnswerFile(folder / "answers.jsonl", SETTINGS)) as file:
        for answer in ANSWERS:
            file.add(answer)
    return (folder / "answers.jsonl.partial").read_bytes()


def test_a_flipped_bit_loses_answers_and_changes_none(path: Path, tmp_path: Path) -> None:
    content, rng = partial_content(tmp_path / "other"), random.Random(0)
    AnswerFile(path, SETTINGS).close()
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.with_name("answers.jsonl.partial").write_bytes(damaged)
        with closing(AnswerFile(path, SETTINGS)) as file:
            assert list(file.answers.values()) in ([], ANSWERS[:1], ANSWERS[1:])


def test_answers_after_a_damaged_line_are_kept(path: Path, tmp_path: Path) -> None:
    whole, content = finish(path), partial_content(tmp_path / "other")
    for damaged in (b"\0" + content[1:], content[:20] + b"\n" + content[20:], b"[" * 10_000 + b"\n" + content):
        folder = tmp_path / str(len(damaged))
        folder.mkdir()
        AnswerFile(folder / "answers.jsonl", SETTINGS).close()
        (folder / "answers.jsonl.partial").write_bytes(damaged)
        with closing(AnswerFile(folder / "answers.jsonl", SETTINGS)) as file:
            assert ANSWERS[1].key in file.answers
        assert finish(folder / "answers.jsonl") == whole


@pytest.mark.parametrize("line", [b"{}", b'{"a":' * 10_000, b'{"key": ["b"], "question": "", "images": []}', b"[]"])
def test_lines_that_are_no_answers_are_removed(line: bytes, path: Path) -> None:
    AnswerFile(path, SETTINGS).close()
    path.with_name("answers.jsonl.partial").write_bytes(line + b"\n")
    with closing(AnswerFile(path, SETTINGS)) as file:
        assert file.answers == {}
    assert path.with_name("answers.jsonl.partial").read_bytes() == b""


def test_a_partial_file_without_its_settings_is_refused(path: Path) -> None:
    path.with_name("answers.jsonl.partial").write_bytes(ANSWERS[0].to_line())
    with pytest.raises(UsageError, match=r"answers\.jsonl\.partial: exists and was not written by this command"):
        AnswerFile(path, SETTINGS)


def test_a_flipped_bit_in_a_finished_file_or_its_settings_is_noticed(path: Path) -> None:
    finish(path)
    for file in (path, path.with_name("answers.jsonl.settings.json")):
        content, rng = file.read_bytes(), random.Random(0)
        for _ in range(100):
            damaged = bytearray(content)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(RelayError):
                AnswerFile(path, SETTINGS)
        file.write_bytes(content)


def test_a_finished_file_is_continued(path: Path) -> None:
    finish(path)
    new = Answer("new", "how?", (), "so", "eos", 2)
    with closing(AnswerFile(path, SETTINGS)) as file:
        file.add(new)
    with closing(AnswerFile(path, SETTINGS)) as file:
        assert file.answers == {answer.key: answer for answer in [*ANSWERS, new]}
        file.finish(["new", "a"])
    assert [json.loads(line)["key"] for line in path.read_bytes().splitlines()] == ["new", "a", "b"]
    AnswerFile(path, SETTINGS).close()


def test_files_of_version_0_1_are_continued(path: Path) -> None:
    """Lines had no checksum, and the settings had the hash of the questions."""
    recorded = {**SETTINGS.to_json(), "questions_sha256": "ab"}
    path.with_name("answers.jsonl.settings.json").write_text(json.dumps(recorded))
    path.with_name("answers.jsonl.partial").write_bytes(ANSWERS[0].to_line())
    settings = replace(SETTINGS, questions_sha256=recorded_settings(path)["questions_sha256"])
    with closing(AnswerFile(path, settings)) as file:
        assert list(file.answers.values()) == ANSWERS[:1]
        file.add(ANSWERS[1])
        file.finish(["a", "b"])
    with closing(AnswerFile(path, settings)) as file:
        assert list(file.answers.values()) == ANSWERS[::-1]


def test_a_finished_file_is_read_only(path: Path) -> None:
    whole = finish(path)
    with closing(AnswerFile(path, SETTINGS)) as file:
        assert file.answers == {answer.key: answer for answer in ANSWERS}
    assert finish(path) == whole


def test_a_damaged_finished_file_is_refused_and_left_alone(path: Path) -> None:
    whole = finish(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(DatasetError, match="damaged"):
        AnswerFile(path, SETTINGS)
    assert path.read_bytes() == whole[:-3]
    assert names(path) == ["answers.jsonl", "answers.jsonl.settings.json"]


def test_other_settings_are_refused_with_the_difference(path: Path) -> None:
    AnswerFile(path, SETTINGS).close()
    with pytest.raises(ConfigMismatchError, match="seed: recorded 3, given 4"):
        AnswerFile(path, replace(SETTINGS, seed=4))


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_text("mine\n")
    with pytest.raises(UsageError, match="not written by this command"):
        AnswerFile(path, SETTINGS)
    assert path.read_text() == "mine\n"


def test_damaged_settings_are_refused(path: Path) -> None:
    AnswerFile(path, SETTINGS).close()
    path.with_name("answers.jsonl.settings.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        AnswerFile(path, SETTINGS)


def test_recorded_settings_have_the_names_of_version_0_1() -> None:
    expected = {
        "model": "ab",
        "text": "cd",
        "layout": {"bos": 1},
        "images": None,
        "question": "why?",
        "template": "chat",
        "max_new_tokens": 5,
        "sampling": {"temperature": 1.0, "top_k": 2048, "top_p": 1.0, "greedy": True},
        "seed": 3,
    }
    assert SETTINGS.to_json() == expected
    with_videos = replace(SETTINGS, video_format=UNIVLA).to_json()
    assert with_videos == {**expected, "video_template": {"name": "univla", "size": "T*H*W", "has_eol": False}}
