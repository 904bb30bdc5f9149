"""A worker that writes one small file per unit, misbehaves on request, and can be run as a program.

python -m tests.support.toy_worker FOLDER UNITS WORKERS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared.errors import ConfigMismatchError
from shared.jobs.job import ClaimStatus, Job, Task, TaskResult, WorkerContext
from shared.jobs.signals import StopFlag, stop_on_signals

INPUTS = 8  # per unit; input i of unit u has the index 8 u + i
NO_UNIT = -1
PATIENCE_S = 40.0


@dataclass(frozen=True, slots=True)
class Toy:
    """How the worker behaves: which inputs kill it, which units raise, and which ones run until it is stopped.

    If there are endless units, the refused unit raises only after another worker has entered one of them. Units from
    `held_from` on wait until the test has called `release`. The hanging unit never ends, except at a second attempt.
    """

    folder: Path
    poison: tuple[int, ...] = ()
    refused_unit: int = NO_UNIT
    broken_unit: int = NO_UNIT
    endless_units: tuple[int, ...] = ()
    dies_at_start: bool = False
    unit_s: float = 0.0
    held_from: int = sys.maxsize
    hanging_unit: int = NO_UNIT

    def release(self) -> None:
        (self.folder / "released").touch()


class ToyWorker:
    """Takes two tasks if two are available, and does the later one first."""

    def __init__(self, toy: Toy, context: WorkerContext):
        self.toy = toy
        self.context = context
        if toy.dies_at_start:
            os.kill(os.getpid(), signal.SIGKILL)
        (toy.folder / f"{os.getpid()}.pid").touch()

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        for task in tasks:
            if task is None:
                continue
            later = next(tasks, None)
            for each in (later, task):
                if each is not None and not self.context.stop.is_set():
                    yield self._do(each)

    def _do(self, task: Task) -> TaskResult:
        toy, unit = self.toy, task.unit
        if unit == toy.refused_unit:
            until_s = time.monotonic() + PATIENCE_S
            while toy.endless_units and not list(toy.folder.glob("*.endless")):
                assert time.monotonic() < until_s, "no other worker entered an endless unit"
                time.sleep(0.01)
            raise ConfigMismatchError(f"unit {unit} has other settings")
        if unit == toy.broken_unit:
            raise ZeroDivisionError(f"unit {unit}")
        time.sleep(toy.unit_s)
        if unit == toy.hanging_unit and not (toy.folder / "hung").exists():
            (toy.folder / "hung").touch()
            while True:
                time.sleep(0.01)
        until_s = time.monotonic() + PATIENCE_S
        while unit >= toy.held_from and not (toy.folder / "released").exists() and not self.context.stop.is_set():
            assert time.monotonic() < until_s, "the test did not release the held units"
            time.sleep(0.01)
        if unit in toy.endless_units:
            (toy.folder / f"{os.getpid()}.endless").touch()
        while unit in toy.endless_units and not self.context.stop.is_set():
            assert time.monotonic() < until_s, "the endless unit was not stopped"
            time.sleep(0.01)
        partial_path = toy.folder / f"unit-{unit}.partial"
        kept = set(json.loads(partial_path.read_text())) if partial_path.exists() else set()
        rows = kept | set(self._computed(unit, set(task.subset or inputs_of(unit)) - kept - set(task.poison)))
        if task.subset:
            os.replace(self._written(sorted(rows)), partial_path)
            return TaskResult(task, rows=len(rows - kept))
        self.context.report_progress(unit, len(kept) + len(task.poison))
        device = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
        found = {"rows": sorted(rows), "quarantined": list(task.poison), "device": device}
        self._create(toy.folder / f"unit-{unit}.json", found)
        return TaskResult(task, rows=len(rows), quarantined=len(task.poison))

    def _create(self, path: Path, found: dict[str, object]) -> None:
        """Create the file of a unit; the first one wins. A worker may have died after creating it."""
        try:
            os.link(self._written(found), path)
        except FileExistsError:
            existing = json.loads(path.read_text())
            assert {**existing, "device": ""} == {**found, "device": ""}

    def _written(self, content: object) -> Path:
        path = self.toy.folder / f"{os.getpid()}.tmp"
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(content))
        return path

    def _computed(self, unit: int, inputs: set[int]) -> Iterator[int]:
        for src_index in sorted(inputs):
            if src_index in self.toy.poison:
                os.kill(os.getpid(), signal.SIGKILL)
            self.context.report_progress(unit, 1)
            yield src_index


def inputs_of(unit: int) -> tuple[int, ...]:
    return tuple(range(unit * INPUTS, (unit + 1) * INPUTS))


class ToyCatalog:
    """Units of eight inputs and two shapes."""

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return inputs_of(unit)

    def shape(self, unit: int) -> Hashable:
        return unit % 2


class OwnClaims:
    """Grants all claims; fails if a unit is claimed twice, or released without having been claimed."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def claim(self, unit: int) -> ClaimStatus:
        assert unit not in self.held
        self.held.add(unit)
        return ClaimStatus.ACQUIRED

    def release(self, unit: int) -> None:
        self.held.remove(unit)


def toy_job(toy: Toy, units: int, done: list[TaskResult], progress: list[int], stop: StopFlag | None = None) -> Job:
    """Return a job of the first `units` units, which appends all results and progress to the lists."""
    toy.folder.mkdir(exist_ok=True)
    return Job(
        make_worker=partial(ToyWorker, toy),
        units=range(units),
        catalog=ToyCatalog(),
        claims=OwnClaims(),
        stop=stop or StopFlag(),
        on_result=done.append,
        on_progress=progress.append,
    )


def main(folder: str, units: str, workers: str) -> None:
    """Run a job whose units are endless from the fourth on."""
    from shared.jobs.local_engine import run_local

    with stop_on_signals() as stop:
        toy = Toy(Path(folder), endless_units=tuple(range(3, int(units))))
        try:
            run_local(toy_job(toy, int(units), [], [], stop), int(workers))
        except Exception as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
