"""What is left to do for each step."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.workflow import state
from pipelines.workflow.runner import StepFailed
from pipelines.workflow.state import StepRecord, StepStatus, plan_steps, step_status
from pipelines.workflow.step import Step
from shared.dataset.change import Change
from shared.errors import UsageError
from tests.support.small_datasets import SEQUENCE_SETTINGS, sequence_rows, write_dataset
from tests.support.small_pipelines import CHAIN, StandInCommands, load, steps, steps_run
from vq_stage.model.weights import EMBEDDED_TOKENIZER


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, StepStatus.DONE),
        ({"has_output": False, "output_exists": False}, StepStatus.DONE),
        ({"is_recorded": False, "output_exists": False}, StepStatus.NEW),
        ({"is_recorded": False}, StepStatus.CHANGED),
        ({"is_done": False}, StepStatus.UNFINISHED),
        ({"is_done": False, "output_exists": False}, StepStatus.UNFINISHED),
        ({"output_exists": False}, StepStatus.UNFINISHED),
        ({"is_invalidated": True}, StepStatus.CHANGED),
        ({"is_invalidated": True, "is_done": False}, StepStatus.CHANGED),
        ({"items": [1]}, StepStatus.CHANGED),
        ({"items": [1, 2, 3]}, StepStatus.GROWN),
        ({"items": [1, 2, 3], "is_done": False}, StepStatus.GROWN),
        ({"items": [1, 2, 3], "output_exists": False}, StepStatus.CHANGED),
        ({"items": [1, 2, 3], "is_invalidated": True}, StepStatus.CHANGED),
        ({"items": [1, 2, 3], "command": "decode"}, StepStatus.CHANGED),
        ({"items": [1, 2, 3], "settings": "others"}, StepStatus.CHANGED),
        ({"items": [4], "change": Change.NONE}, StepStatus.DONE),
        ({"items": [4], "change": Change.NONE, "is_done": False}, StepStatus.UNFINISHED),
        ({"items": [4], "change": Change.GROWN}, StepStatus.GROWN),
        ({"items": [4], "change": Change.TEXTS}, StepStatus.TEXTS),
        ({"items": [4], "change": Change.NONE, "is_invalidated": True}, StepStatus.CHANGED),
        ({"items": [4], "change": Change.NONE, "output_exists": False}, StepStatus.CHANGED),
        ({"items": [4], "change": Change.NONE, "command_digest": "others"}, StepStatus.CHANGED),
        ({"items": [4], "change": Change.NONE, "command_digest": ""}, StepStatus.CHANGED),
        ({"items": [4], "seen": "[4]"}, StepStatus.DONE),
    ],
)
def test_the_status_of_a_step(changes: dict[str, Any], status: StepStatus, tmp_path: Path) -> None:
    """A step that is done with items 1 and 2, except for the changes."""
    facts = {"has_output": True, "output_exists": True, "is_recorded": True, "command": "encode", "items": [1, 2]}
    facts |= {"is_done": True, "is_invalidated": False, "settings": "as before", "change": Change.CHANGED}
    facts |= {"command_digest": "as before", "seen": "", **changes}
    output = tmp_path / "output"
    if facts["output_exists"]:
        output.mkdir()
    step = Step("codes", facts["command"], (), output if facts["has_output"] else None, (), ())
    before, items = np.array([1, 2], np.uint64), np.array(facts["items"], np.uint64)
    recorded = StepRecord("[1, 2]", "as before", before, "as before", seen=facts["seen"], is_done=facts["is_done"])
    current = StepRecord(str(facts["items"]), facts["settings"], items, facts["command_digest"])
    known = recorded if facts["is_recorded"] else None
    assert step_status(step, current, known, facts["is_invalidated"], lambda record: facts["change"]) is status


def test_times_alone_do_not_make_a_step_stale(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs are read once; the record then has their new times."""
    steps_run(worker, load(CHAIN))
    os.utime(folder / "photos/one.png", (1, 1))
    monkeypatch.setattr(state, "compare", lambda step: Change.NONE)
    assert [one.status.value for one in plan_steps(load(CHAIN))] == ["done", "done"]
    assert steps_run(worker, load(CHAIN)) == []
    monkeypatch.setattr(state, "compare", None)
    assert steps_run(worker, load(CHAIN)) == []


def test_a_copied_model_is_the_same_model(folder: Path, worker: StandInCommands) -> None:
    shutil.copytree(EMBEDDED_TOKENIZER, folder / "model")
    decode = {"run": "decode", "dataset": "${codes}", "vision-tokenizer": "model"}
    described = {**CHAIN, "steps": {**CHAIN["steps"], "pictures": decode}}
    steps_run(worker, load(described))
    (folder / "model").rename(folder / "moved")
    shutil.copytree(folder / "moved", folder / "model", copy_function=shutil.copyfile)
    assert [one.status.value for one in plan_steps(load(described))] == ["done", "done"]
    (folder / "model/config.json").write_bytes((folder / "model/config.json").read_bytes() + b" ")
    assert [one.status.value for one in plan_steps(load(described))] == ["done", "changed"]


def test_a_dataset_of_another_pipeline_is_watched(folder: Path, worker: StandInCommands) -> None:
    write_dataset(folder / "d", sequence_rows(), SEQUENCE_SETTINGS)
    described = steps(checked={"run": "verify", "dataset": "d"})
    steps_run(worker, load(described))
    assert steps_run(worker, load(described)) == []
    (folder / "d/parts/part-000001.json").write_text("{}")
    assert plan_steps(load(described))[0].status.value == "changed"


def test_files_of_a_pattern_and_of_linked_folders_are_compared_by_content(
    folder: Path, worker: StandInCommands
) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "photos/linked").symlink_to("../elsewhere")
    for source, picture in (("photo*/", folder / "photos/one.png"), ("photos", folder / "elsewhere/two.png")):
        picture.write_bytes(b"picture")
        described = steps(tokenizer={"run": "train-vq", "source": source, "init-from": str(EMBEDDED_TOKENIZER)})
        steps_run(worker, load(described))
        os.utime(picture, (1, 1))
        assert plan_steps(load(described))[0].status.value == "done"
        picture.write_bytes(b"another")
        assert plan_steps(load(described))[0].status.value == "changed"


@pytest.mark.parametrize("command", ["encode", "train-vq"])
def test_the_files_that_a_list_names_are_watched(
    command: str, folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compared by content, an encoded one by its command."""
    root = {"image-root": "photos"} if command == "encode" else {}
    source = folder / "list.jsonl" if root else folder / "photos/list.jsonl"
    source.write_text('{"image": "one.png"}\n{"image": "later.png"}\n{"image": "\\u0000"}\n{"image": "walk.frames"}\n')
    (folder / "photos/walk.frames").mkdir()
    monkeypatch.setattr(state, "compare", lambda step: Change.CHANGED if step.command == "encode" else Change.NONE)
    others = root or {"init-from": str(EMBEDDED_TOKENIZER)}
    described = steps(codes={"run": command, "source": str(source), **others})
    for name in ("one.png", "later.png", "walk.frames/0.png"):
        steps_run(worker, load(described))
        assert steps_run(worker, load(described)) == []
        (folder / "photos" / name).write_bytes(b"another")
        assert plan_steps(load(described))[0].status.value == "changed"
    steps_run(worker, load(described))
    os.utime(folder / "photos/one.png", (1, 1))
    assert plan_steps(load(described))[0].status.value == ("changed" if root else "done")


def test_a_record_of_an_earlier_version_learns_the_content_of_its_inputs(folder: Path, worker: StandInCommands) -> None:
    """Once the step was found as it was, a copy of its inputs does not make it stale any more."""
    described = steps(tokenizer={"run": "train-vq", "source": "photos", "init-from": str(EMBEDDED_TOKENIZER)})
    steps_run(worker, load(described))
    record = folder / "p/.pipeline/tokenizer.json"
    content = json.loads(record.read_bytes())
    record.write_text(json.dumps({name: content[name] for name in ("digest", "settings", "done", "seconds")}))
    assert steps_run(worker, load(described)) == []
    os.utime(folder / "photos/one.png", (1, 1))
    assert plan_steps(load(described))[0].status.value == "done"


def test_what_is_neither_a_file_nor_a_folder_has_no_content(folder: Path, worker: StandInCommands) -> None:
    os.mkfifo(folder / "pipe")
    described = steps(tokenizer={"run": "train-vq", "source": "photos", "config": "pipe"})
    assert [one.status.value for one in plan_steps(load(described))] == ["new"]


def test_other_captions_are_replaced_also_after_an_interruption(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are not encoded again; steps that need them run again."""
    steps_run(worker, load(CHAIN))
    (folder / "photos/one.txt").write_text("a caption")
    monkeypatch.setattr(state, "compare", lambda step: Change.TEXTS)
    worker.fails = "codes"
    assert [one.status.value for one in plan_steps(load(CHAIN))] == ["texts", "changed"]
    with pytest.raises(StepFailed):
        steps_run(worker, load(CHAIN))
    worker.fails = None
    for changes in ({}, {"codes.update-texts": "true"}):
        codes = plan_steps(load(CHAIN, changes))[0]
        assert (codes.status.value, codes.step.arguments.count("--update-texts")) == ("unfinished", 1)
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    assert (folder / "p/codes/made").read_text().startswith("encode --update-texts --resize none --")
    assert [path.name for path in (folder / "p/stale").iterdir()] == ["pictures-0"]
    codes = plan_steps(load(CHAIN))[0]
    assert (codes.status.value, codes.record.updates_texts) == ("done", False)


def test_quarantined_inputs_are_tried_again_once(folder: Path, worker: StandInCommands) -> None:
    """Their step resumes each time that the option is given or changed, also after an interruption."""
    steps_run(worker, load(CHAIN))
    retry = {"codes.retry-quarantined": "truncated"}
    assert [one.status.value for one in plan_steps(load(CHAIN, retry))] == ["grown", "changed"]
    worker.fails = "codes"
    with pytest.raises(StepFailed):
        steps_run(worker, load(CHAIN, retry))
    worker.fails = None
    assert steps_run(worker, load(CHAIN, retry)) == ["codes", "pictures"]
    assert steps_run(worker, load(CHAIN, retry)) == steps_run(worker, load(CHAIN)) == []
    assert steps_run(worker, load(CHAIN, retry)) == ["codes", "pictures"]
    assert [path.name for path in (folder / "p/stale").iterdir()] == ["pictures-0", "pictures-1"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"digest": "x", "settings": "y", "done": true, "seconds": "z"}']
)
def test_a_damaged_record_counts_as_none(content: bytes, folder: Path, worker: StandInCommands) -> None:
    steps_run(worker, load(CHAIN))
    (folder / "p/.pipeline/codes.json").write_bytes(content)
    assert plan_steps(load(CHAIN))[0].status.value == "changed"


def test_codes_are_kept_when_files_are_added(folder: Path, worker: StandInCommands) -> None:
    """The command adds the new files, even after an interruption; steps that need it run again."""
    steps_run(worker, load(CHAIN))
    (folder / "photos/two.png").write_bytes(b"another")
    assert [state.status.value for state in plan_steps(load(CHAIN))] == ["grown", "changed"]
    worker.fails = "codes"
    with pytest.raises(StepFailed):
        steps_run(worker, load(CHAIN))
    worker.fails = None
    assert [state.status.value for state in plan_steps(load(CHAIN))] == ["unfinished", "changed"]
    (folder / "photos/three.png").write_bytes(b"a third")
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    assert [path.name for path in (folder / "p/stale").iterdir()] == ["pictures-0"]
    (folder / "photos/two.png").unlink()
    assert [state.status.value for state in plan_steps(load(CHAIN))] == ["changed", "changed"]
    (folder / "photos/four.png").write_bytes(b"a fourth")
    assert [state.status.value for state in plan_steps(load(CHAIN, {"codes.resize": "area"}))] == ["changed", "changed"]


def test_added_captions_are_not_growth(folder: Path, worker: StandInCommands) -> None:
    """They are compared with the dataset, which is none here."""
    steps_run(worker, load(CHAIN))
    for name in ("one.txt", "metadata.jsonl"):
        (folder / "photos" / name).write_text("a caption")
        assert plan_steps(load(CHAIN))[0].status.value == "changed"
        (folder / "photos" / name).unlink()
    (folder / "photos/walk.frames").mkdir()
    (folder / "photos/walk.frames/0.png").write_bytes(b"frame")
    (folder / "photos/two.png").write_bytes(b"another")
    (folder / "photos/two.txt").write_text("its caption")
    assert plan_steps(load(CHAIN))[0].status.value == "grown"
    steps_run(worker, load(CHAIN))
    (folder / "photos/walk.frames/1.png").write_bytes(b"frame")
    assert plan_steps(load(CHAIN))[0].status.value == "changed"


def test_codes_of_a_changed_step_are_not_kept(folder: Path, worker: StandInCommands) -> None:
    described = steps(**CHAIN["steps"], again={"run": "encode", "source": "${pictures}"})
    described["variables"] = CHAIN["variables"]
    steps_run(worker, load(described))
    (folder / "photos/one.png").write_bytes(b"another picture")
    assert steps_run(worker, load(CHAIN)) == ["codes", "pictures"]
    assert [state.status.value for state in plan_steps(load(described))] == ["done", "done", "changed"]


def test_a_folder_that_cannot_be_listed_is_refused(
    folder: Path, worker: StandInCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files do not count as removed."""
    steps_run(worker, load(CHAIN))
    (folder / "photos/closed").mkdir()
    listed = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(UsageError, match="closed: cannot be listed"):
        plan_steps(load(CHAIN))
