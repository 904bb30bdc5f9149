"""Prompts and questions, ordinary and hostile, given to the commands `generate` and `understand`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lm_stage.generate.planner import PromptPlanner
from pipelines.cli import main
from shared.dataset.dataset import Dataset
from shared.jobs.file_locks import job_lock, try_lock
from tests.support.command import INTERRUPTED, REPOSITORY
from tests.support.file_digests import file_digests
from tests.support.prompts import write_entries
from tests.support.step_by_step import stand_in_language_model

SIZE = ("--height", 16, "--width", 24, "--guidance-scale", 1)
BAD = [{"key": "a", "prompt": "x", "seed": "1"}, {"key": "b", "prompt": " "}, {"key": "c", "prompt": "x", "sede": 1}]
GOOD = [{"key": key, "prompt": f"a red {key}"} for key in "abc"]
OLD = REPOSITORY / "tests" / "golden" / "written_by_0.1"


def run(*arguments: object, exit_code: int = 0) -> list[str]:
    """Run `emu3 …` in this process and return the lines that it printed. Errors that are not ours are raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output.splitlines()


@pytest.fixture
def without_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of MindSpore fail, so that no model can load."""
    monkeypatch.setitem(sys.modules, "mindspore", None)


@pytest.fixture
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the model makes commands quick."""
    stand_in_language_model(monkeypatch)


def rows(dataset: Path) -> dict[str, bytes]:
    opened = Dataset.open(dataset)
    return {row.key: row.codes_THW.tobytes() for record in opened.commit_records() for row in opened.rows(record)}


@pytest.mark.usefixtures("without_model")
def test_a_dataset_follows_its_prompts(small_lm: Path, tmp_path: Path) -> None:
    prompts, dataset = tmp_path / "prompts.jsonl", tmp_path / "dataset"
    command = ("generate", prompts, dataset, "--model", small_lm, *SIZE)
    write_entries(prompts, BAD)
    for _ in range(2):
        printed = run(*command, exit_code=1)
        assert "bad_entry (2), empty_prompt (1)" in printed[-1]
        assert any("prompts.jsonl#1: line 1: `seed`" in line for line in printed)
    write_entries(prompts, [*GOOD[:2], BAD[2]])
    assert "2 images generated, 1 refused" in run(*command)[-1]
    write_entries(prompts, GOOD)
    assert "1 images generated, 0 refused" in run(*command)[-1]
    before = rows(dataset)
    assert sorted(before) == ["a", "b", "c"]
    write_entries(prompts, [{"key": "new", "prompt": "a pear"}, *GOOD[1:]])
    printed = run(*command)
    assert "1 images generated, 0 refused" in printed[-1]
    assert any("1 prompts of" in line and "not listed" in line for line in printed)
    after = rows(dataset)
    assert sorted(after) == ["a", "b", "c", "new"]
    assert {key: after[key] for key in before} == before
    assert "0 images generated, 0 refused" in run(*command)[-1]
    assert "4 rows, 0 quarantined; complete" in "\n".join(run("verify", dataset))
    shutil.rmtree(dataset)
    write_entries(prompts, [*GOOD, {"key": "new", "prompt": "a pear"}])
    run(*command)
    assert rows(dataset) == after, "the same codes as of one run"


@pytest.mark.usefixtures("without_mindspore")
def test_a_changed_prompt_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    """The dataset was written by version 0.1, which recorded the hash of the prompt file."""
    for name in ("seqs", "model"):
        shutil.copytree(OLD / name, tmp_path / name)
    lines = (OLD / "prompts.txt").read_text().splitlines()
    prompts, before = tmp_path / "prompts.txt", file_digests(tmp_path / "seqs" / "parts")
    command = ("generate", prompts, tmp_path / "seqs", "--model", tmp_path / "model", "--area", 576)
    prompts.write_text("\n".join(["something else", *lines[1:]]))
    printed = "\n".join(run(*command, exit_code=2))
    assert "prompts.txt#1: prompt '000001': text: recorded" in printed or "defaults" in printed
    assert file_digests(tmp_path / "seqs" / "parts") == before


@pytest.mark.usefixtures("without_mindspore")
def test_a_dataset_of_version_0_1_gets_no_new_prompts(tmp_path: Path) -> None:
    """Its rows were sampled with other noise."""
    for name in ("seqs", "model"):
        shutil.copytree(OLD / name, tmp_path / name)
    prompts, before = tmp_path / "prompts.txt", file_digests(tmp_path / "seqs" / "parts")
    command = ("generate", prompts, tmp_path / "seqs", "--model", tmp_path / "model", "--allow-numerics-change")
    prompts.write_text((OLD / "prompts.txt").read_text().rstrip() + "\na pear\n")
    assert "finish it with that version, or write a new one" in run(*command, exit_code=2)[-1]
    assert file_digests(tmp_path / "seqs" / "parts") == before
    assert Dataset.open(tmp_path / "seqs").plan().additions == 0
    shutil.copy(OLD / "prompts.txt", prompts)
    assert "0 images generated, 0 refused" in run(*command)[-1]


@pytest.mark.usefixtures("without_mindspore")
def test_sampled_answers_of_an_earlier_version_get_no_new_ones(small_lm: Path, tmp_path: Path) -> None:
    """The settings of that version are what this one records, without the scheme of the noise."""
    questions, answers = write_entries(tmp_path / "q.jsonl", [{"question": ""}]), tmp_path / "answers.jsonl"
    command = ("understand", "-", answers, "--questions", questions, "--model", small_lm, "--sample")
    run(*command, exit_code=1)
    recorded = json.loads((settings := tmp_path / "answers.jsonl.settings.json").read_text())
    assert recorded["sampling"].pop("noise") == "gumbel"
    settings.write_text(json.dumps({name: value for name, value in recorded.items() if name != "check"}))
    assert "1 already present" not in run(*command, exit_code=1)[-1]
    write_entries(questions, [{"question": "what?"}])
    assert "finish it with that version, or write a new one" in run(*command, exit_code=2)[-1]


@pytest.mark.usefixtures("without_model")
def test_units_of_other_jobs_are_left_to_them(small_lm: Path, tmp_path: Path) -> None:
    prompts, dataset = write_entries(tmp_path / "prompts.json", GOOD), tmp_path / "dataset"
    command = ("generate", prompts, dataset, "--model", small_lm, *SIZE, "--unit-rows", 2)
    with job_lock(dataset):
        lock = try_lock(Dataset(dataset).claim_path(0))
        assert lock is not None
        printed = run(*command, exit_code=INTERRUPTED)
        assert "still working on 1 units" in printed[-1]
        lock.release()
    assert "2 images generated" in run(*command)[-1]


@pytest.mark.usefixtures("without_mindspore")
def test_a_folder_of_something_else_is_refused_and_left_alone(small_lm: Path, tmp_path: Path) -> None:
    prompts = write_entries(tmp_path / "prompts.json", GOOD)
    mine, lost, file = tmp_path / "mine", tmp_path / "lost", tmp_path / "file"
    (mine / "parts").mkdir(parents=True)
    for name in ("notes.tmp", "photo.png", "parts/part-000000.ab.arrow"):
        (mine / name).touch()
    shutil.copytree(OLD / "seqs", lost)
    (lost / "plan.arrow").unlink()
    file.write_text("mine")
    before = file_digests(mine), file_digests(lost)
    for path, code, shown in ((mine, 2, "found photo.png"), (lost, 1, "missing"), (file, 2, "it is a file")):
        assert shown in "\n".join(run("generate", prompts, path, "--model", small_lm, *SIZE, exit_code=code))
    assert (file_digests(mine), file_digests(lost), file.read_text()) == (*before, "mine")


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "missing", "out"),
        ("generate", "missing.jsonl", "out"),
        ("generate", "prompts.json", "out", "--images", "missing"),
        ("understand", "missing", "out.jsonl"),
        ("understand", "-", "out.jsonl", "--questions", "missing.jsonl"),
        ("sft", "missing", "out"),
        ("init-lm", "missing", "out"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_bad_usage(command: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_entries(tmp_path / "prompts.json", GOOD)
    assert "missing" in "\n".join(run(*command, exit_code=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.json"]


@pytest.mark.usefixtures("without_mindspore")
@pytest.mark.parametrize(
    "values",
    [
        ("--temperature", "0"), ("--temperature", "nan"), ("--top-k", "-1"), ("--top-p", "0"), ("--top-p", "nan"),
        ("--guidance-scale", "nan"), ("--guidance-scale", "-1"), ("--guidance-scale", "inf"), ("--seed", "-1"),
        ("--seed", "9" * 5000), ("--batch-size", "0"), ("--samples", "0"), ("--samples", "1000000000"),
        ("--area", "0"), ("--area", "1000000000000000000000"), ("--height", "16"), ("--height", "12", "--width", "16"),
        ("--height", "800", "--width", "800"), ("--ratio", "1:0"), ("--ratio", "nan:1"), ("--frames", "-1"),
        ("--frames", "70000"), ("--unit-rows", "0"), ("--journal-rows", "0"), ("--layout", "missing.json"),
    ],
    ids=lambda values: " ".join(values)[:40],
)  # fmt: skip
def test_values_that_cannot_work_are_refused(values: Sequence[str], small_lm: Path, tmp_path: Path) -> None:
    prompts = write_entries(tmp_path / "prompts.json", GOOD)
    run("generate", prompts, tmp_path / "out", "--model", small_lm, *values, exit_code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_mindspore")
def test_a_dataset_with_a_default_size_that_no_prompt_uses_resumes(
    small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions planned such datasets; new ones are refused."""
    sized = [{**entry, "height": 16, "width": 24} for entry in GOOD]
    prompts, dataset = write_entries(tmp_path / "prompts.json", sized), tmp_path / "dataset"
    command = ("generate", prompts, dataset, "--model", small_lm, "--area", 720 * 720)
    assert "the given size" in "\n".join(run(*command, exit_code=2))
    with monkeypatch.context() as earlier:
        earlier.setattr(PromptPlanner, "check_size", lambda *_: None)
        with pytest.raises(ImportError, match="mindspore"):
            run(*command)
    assert Dataset(dataset).plan_path.is_file()
    with pytest.raises(ImportError, match="mindspore"):
        run(*command)


@pytest.mark.usefixtures("without_mindspore")
def test_special_files_are_refused(small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zero.jsonl").symlink_to("/dev/zero")
    os.mkfifo("pipe.jsonl")
    Path("folder.jsonl").mkdir()
    for name in ("zero.jsonl", "pipe.jsonl", "folder.jsonl", "/dev/zero", "."):
        assert name in "\n".join(run("generate", name, "out", "--model", small_lm, exit_code=2))
        printed = run("understand", "-", "out.jsonl", "--questions", name, "--model", small_lm, exit_code=2)
        assert name in "\n".join(printed)
    for answers in ("/dev/null", "folder.jsonl", "pipe.jsonl", "zero.jsonl/out.jsonl"):
        write_entries(Path("questions.jsonl"), [{"question": "why?"}])
        command = ("understand", "-", answers, "--questions", "questions.jsonl", "--model", small_lm)
        assert answers.partition("/out")[0] in "\n".join(run(*command, exit_code=2))


def answers(path: Path) -> dict[str, dict[str, Any]]:
    return {answer["key"]: answer for answer in map(json.loads, path.read_text().splitlines())}


@pytest.mark.usefixtures("without_model")
def test_answers_follow_the_questions(small_lm: Path, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    command = ("understand", "-", out, "--questions", questions, "--model", small_lm, "--max-new-tokens", 4)
    write_entries(questions, [{"key": "a", "question": " "}, {"key": "b", "question": "x", "images": ["one"]}])
    for _ in range(2):
        assert "every question was refused: empty_prompt (1), missing_image (1)" in run(*command, exit_code=1)[-1]
    write_entries(questions, [{"key": "a", "question": "why?"}, {"key": "b", "question": " "}])
    assert "1 answered, 0 already present, 1 refused: empty_prompt (1)" in run(*command)[-1]
    first = answers(out)["a"]
    write_entries(questions, [{"key": "new", "question": "how?"}, {"key": "b", "question": "who?"}])
    assert "2 answered, 0 already present, 0 refused" in run(*command)[-1]
    assert list(answers(out)) == ["new", "b", "a"]
    assert answers(out)["a"] == first
    before = out.read_bytes()
    assert "0 answered, 2 already present, 0 refused" in run(*command)[-1]
    write_entries(questions, [{"key": "new", "question": "what?"}])
    assert "question 'new': recorded 'how?', given 'what?'" in "\n".join(run(*command, exit_code=2))
    assert out.read_bytes() == before


@pytest.mark.usefixtures("without_mindspore")
def test_answers_of_version_0_1_keep_the_numbers_of_their_lines(small_lm: Path, tmp_path: Path) -> None:
    """Version 0.1 knew no key but `key`, and recorded the hash of the questions."""
    questions = write_entries(tmp_path / "questions.jsonl", [{"question_id": 5, "question": " "}])
    out, settings = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.settings.json"
    command = ("understand", "-", out, "--questions", questions, "--model", small_lm)
    run(*command, exit_code=1)
    assert list(answers(out)) == ["5"]
    recorded = {name: value for name, value in json.loads(settings.read_text()).items() if "answers" not in name}
    del recorded["check"]
    out.unlink()
    settings.write_text(json.dumps({**recorded, "questions_sha256": "ab"}))
    run(*command, exit_code=1)
    assert list(answers(out)) == ["000001"]


@pytest.mark.usefixtures("without_mindspore")
def test_a_step_that_generated_nothing_is_not_done(small_lm: Path, tmp_path: Path) -> None:
    prompts, pipeline = write_entries(tmp_path / "prompts.jsonl", BAD), tmp_path / "pipeline.yaml"
    step = {"run": "generate", "prompts": str(prompts), "model": str(small_lm)}
    pipeline.write_text(json.dumps({"steps": {"images": step}}))
    command = ("run", pipeline, "--out", tmp_path / "out")
    assert "step images failed with exit code 1" in run(*command, exit_code=1)[-1]
    assert "unfinished" in run(*command, "--dry-run")[-1]
