"""The vocabulary of a job: the tasks that workers carry out, their results, and what an engine needs to run them.

A job describes the work, a worker does it, and an engine (`local_engine`, `ray_engine`) brings the two together.
This module has no heavy imports because every worker process loads it first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from shared.jobs.signals import StopFlag

Shape = TypeVar("Shape", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Task:
    """A request to compute one unit and commit it.

    With a `subset` of its inputs (by `src_index`), the worker computes only these, keeps their rows as a partial unit
    and commits nothing. `poison` inputs have killed workers: they are not computed but quarantined with the reason
    `worker_died`.
    """

    unit: int
    subset: tuple[int, ...] = ()
    poison: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The outcome of a task.

    `rows` were computed by it, `resumed_rows` had been computed before, `quarantined` counts the inputs it refused and
    `invalid` lists (key, error) pairs. `payload` carries data for jobs in which one process writes all results.
    """

    task: Task
    rows: int = 0
    resumed_rows: int = 0
    quarantined: int = 0
    invalid: tuple[tuple[str, str], ...] = ()
    elapsed_s: float = 0.0
    payload: object = None


def ignore(*values: object) -> None:
    """Drop a report: for jobs without a listener."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The connection of a worker to the process that it runs in.

    `report_progress(unit, count)` counts images or tokens while a task is running. If the worker dies before the unit
    is committed, the engine subtracts what was reported for it. A worker that reports nothing for long is taken to
    hang, so it reports after every batch or token, with a count of 0 if nothing is finished.
    """

    stop: StopFlag
    report_progress: Callable[[int, int], None] = ignore


class Worker(Protocol):
    """Carries out tasks until there are none left.

    The constructor loads whatever all tasks need, above all the model: if it dies there, no unit is blamed. A worker
    that commits to a dataset holds the dataset's `job_lock` itself because it can briefly outlive its parent process.
    A unit may already be committed, by a worker that died before it could report the result.
    """

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Pull tasks, several ahead if useful, and yield one result per task in any order.

        The iterator yields None if no task is available until one of the tasks in hand is finished; it blocks while
        no task is in hand. It ends when the job is complete or the stop flag is set; in the latter case the worker
        saves what it has of the tasks in hand and returns.
        """
        ...


class UnitCatalog(Protocol):
    """What the scheduler needs to know about a unit."""

    def src_indices(self, unit: int) -> tuple[int, ...]:
        """Return the indices of the unit's inputs."""
        ...

    def shape(self, unit: int) -> Hashable:
        """Return a key that is equal for units that share compiled graphs."""
        ...


class Units(UnitCatalog, Protocol):
    """The units of a job that resumes: which are missing, where they are claimed and whether they are committed."""

    @property
    def missing(self) -> Sequence[int]:
        """Units without a commit record, in order."""
        ...

    @property
    def progress_total(self) -> int:
        """The end of the progress bar, in inputs or tokens."""
        ...

    @property
    def progress_done(self) -> int:
        """How much of `progress_total` the committed units account for."""
        ...

    def claim_path(self, unit: int) -> Path: ...

    def is_committed(self, unit: int) -> bool: ...

    def log(self, unit: int, rows: int, elapsed_s: float) -> None:
        """Record a finished unit in the progress log, if the job has one."""
        ...


class ClaimStatus(Enum):
    """The outcome of an attempt to claim a unit."""

    ACQUIRED = auto()
    HELD_ELSEWHERE = auto()
    COMMITTED = auto()


class Claims(Protocol):
    """Decides which process works on which unit."""

    def claim(self, unit: int) -> ClaimStatus: ...

    def release(self, unit: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that an engine needs: the missing units, in the order in which to take them, and how to do one.

    `make_worker` is pickled for other processes, so it must be a class or function of a module, or a
    `functools.partial` of one. `steal_units` are taken after all of `units` have been handed out. Units that another
    job has claimed are skipped, or with `wait_for_others` tried again until they are committed. `on_result` receives
    the results of whole units only.
    """

    make_worker: Callable[[WorkerContext], Worker]
    units: Sequence[int]
    catalog: UnitCatalog
    claims: Claims
    stop: StopFlag
    on_result: Callable[[TaskResult], None] = ignore
    on_progress: Callable[[int], None] = ignore
    steal_units: Sequence[int] = ()
    wait_for_others: bool = False
    max_in_flight: int = 2
    max_consecutive_poison: int = 8


class TaskFeed(Generic[Shape]):
    """Groups the tasks of a worker by shape, so that sequences of one shape fill a batch.

    It hands out tasks of one shape and holds the first task of another shape back until that shape is asked for.

    `shape_of(unit)` is called once for each task.
    """

    def __init__(self, tasks: Iterator[Task | None], shape_of: Callable[[int], Shape]):
        self._tasks = tasks
        self._shape_of = shape_of
        self._held: tuple[Task, Shape] | None = None

    def next_shape(self) -> Shape | None:
        """Wait for a task and return its shape, or None if there are no more tasks.

        Call this only while no task is in progress, because the wait may be for another worker.
        """
        while self._held is None:
            try:
                self._hold(next(self._tasks))
            except StopIteration:
                return None
        return self._held[1]

    def take(self, shape: Shape) -> Task | None:
        """Return the next task, or None if none is available now or it has another shape."""
        if self._held is None:
            self._hold(next(self._tasks, None))
        if self._held is None or self._held[1] != shape:
            return None
        task, self._held = self._held[0], None
        return task

    def _hold(self, task: Task | None) -> None:
        if task is not None:
            self._held = task, self._shape_of(task.unit)
