"""What is left to do for each step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.workflow.runner import StepFailed
from pipelines.workflow.state import StepFacts, StepStatus, plan_steps, step_status
from shared.errors import UsageError
from tests.support.small_pipelines import CHAIN, StandInCommands, load, steps, steps_run


def facts(**changes: bool) -> StepFacts:
    """A step that is done, except for the changes."""
    done = {
        "is_recorded": True,
        "is_recorded_done": True,
        "has_output": True,
        "output_exists": True,
        "is_invalidated": False,
        "is_same": True,
        "has_only_grown": False,
    }
    return StepFacts(**{**done, **changes})


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, StepStatus.DONE),
        ({"has_output": False, "output_exists": False}, StepStatus.DONE),
        ({"is_recorded": False, "output_exists": False}, StepStatus.NEW),
        ({"is_recorded": False}, StepStatus.CHANGED),
        ({"is_recorded_done": False}, StepStatus.UNFINISHED),
        ({"is_recorded_done": False, "output_exists": False}, StepStatus.UNFINISHED),
        ({"output_exists": False}, StepStatus.UNFINISHED),
        ({"is_invalidated": True}, StepStatus.CHANGED),
        ({"is_invalidated": True, "is_recorded_done": False}, StepStatus.CHANGED),
        ({"is_same": False}, StepStatus.CHANGED),
        ({"is_same": False, "has_only_grown": True}, StepStatus.GROWN),
        ({"is_same": False, "has_only_grown": True, "is_recorded_done": False}, StepStatus.GROWN),
        ({"is_same": False, "has_only_grown": True, "output_exists": False}, StepStatus.CHANGED),
        ({"is_same": False, "has_only_grown": True, "is_invalidated": True}, StepStatus.CHANGED),
    ],
)
def test_the_status_of_a_step(changes: dict[str, bool], status: StepStatus) -> None:
    assert step_status(facts(**changes)) is status


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


def test_added_captions_are_a_change_not_growth(folder: Path, worker: StandInCommands) -> None:
    """The command would not read captions of files that it has encoded already."""
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
    with pytest.raises(UsageError, match="closed: cannot be listed: Permission denied"):
        plan_steps(load(CHAIN))
