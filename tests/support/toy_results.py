"""Reads what toy workers did: their processes, and the files of their units."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from shared.jobs.job import TaskResult
from tests.support.toy_worker import INPUTS, PATIENCE_S, inputs_of


def wait_until(is_true: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < until_s, "the condition never held"
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    """Whether a process has ended, even if its parent has not waited for it yet."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def started(folder: Path) -> list[int]:
    """Return the process ids of all workers so far."""
    return [int(path.stem) for path in folder.glob("*.pid")]


def committed(folder: Path) -> dict[int, dict[str, object]]:
    """Return the content of each unit's file."""
    return {int(path.stem[5:]): json.loads(path.read_text()) for path in folder.glob("unit-*.json")}


def assert_all_done(folder: Path, units: int, poison: set[int], done: list[TaskResult], progress: list[int]) -> None:
    found = committed(folder)
    assert sorted(found) == sorted(each.task.unit for each in done) == list(range(units))
    for unit, entry in found.items():
        assert entry["rows"] == [index for index in inputs_of(unit) if index not in poison]
        assert entry["quarantined"] == [index for index in inputs_of(unit) if index in poison]
    assert sum(progress) == units * INPUTS
    assert sum(each.rows + each.quarantined for each in done) == units * INPUTS
