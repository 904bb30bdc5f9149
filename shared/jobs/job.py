"""The vocabulary of a job: the tasks that workers carry out, their results, and what an engine needs to run them.

A job describes the work, a worker does it, and an engine (`local_engine`, `ray_engine`) brings the two together.
This module has no heavy imports because every worker process loads it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.jobs.claims import Claims
from shared.jobs.signals import StopFlag
from shared.jobs.units import UnitCatalog


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
    is committed, the engine subtracts what was reported for it.
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
