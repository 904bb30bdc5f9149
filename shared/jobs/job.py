"""What every job over the units of a plan has: tasks and workers that do them, claims of units, a log of progress.

A job says what to do, a worker does it, an engine (`local_engine`, `ray_engine`) brings the two together. Kept free
of heavy imports, because every worker process begins by reading this file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import ConfigMismatchError
from shared.jobs.signals import StopFlag
from shared.storage.digests import settings_diff

if TYPE_CHECKING:
    from shared.dataset.dataset import Dataset


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is asked to do: compute a unit and commit it.

    With `only`: compute these inputs of it (by `src_index`) and keep their rows as a partial unit; commit nothing.
    `poisonous` inputs killed workers: not to be touched, but quarantined with the reason `worker_died`.
    """

    unit: int
    only: tuple[int, ...] = ()
    poisonous: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a task: rows computed by it, rows that were there already, inputs refused, (key, error) pairs.

    `result` is for jobs whose one process writes down what all have found.
    """

    task: Task
    rows: int = 0
    kept: int = 0
    quarantined: int = 0
    invalid: tuple[tuple[str, str], ...] = ()
    elapsed_s: float = 0.0
    result: object = None


def no_progress(unit: int, count: int) -> None:
    """For jobs without a bar."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a worker has of the process it lives in.

    `progress(unit, count)` reports images or tokens between Dones; what was reported of a unit that is not
    committed in the end, because the worker died, is taken back by the engine.
    """

    stop: StopFlag
    progress: Callable[[int, int], None] = no_progress


class Worker(Protocol):
    """Does tasks, for as long as there are any.

    What all tasks need, the model above all, is loaded by the constructor: a death there is blamed on no unit. One
    that commits to a dataset holds its `job_lock` itself: it may outlive the process that started it for a moment.
    A unit may have been committed already, by a worker that died before it could say so.
    """

    def work(self, tasks: Iterator[Task | None]) -> Iterator[Done]:
        """Pulls tasks as it needs them, several ahead if it likes, and yields one Done a task, in any order.

        None means: nothing to be had before something in hand is done, so go on with that. `tasks` blocks while
        nothing is in hand. It ends when all is done, and once the stop flag is set: then the worker keeps what it
        has of the tasks in hand and returns.
        """
        ...


class Claimed(Enum):
    """What came of the wish to work on a unit."""

    HERE = auto()
    ELSEWHERE = auto()
    COMMITTED = auto()


class Claims(Protocol):
    """Who works on which unit."""

    def claim(self, unit: int) -> Claimed: ...

    def release(self, unit: int) -> None: ...


def ignore(value: object) -> None:
    """For jobs that do not listen."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine must know: the missing units, in the order to take them, and what to do about each.

    `make_worker` travels to other processes: a class or function of a module, or a `functools.partial` of one. Units
    of one `shape_of` share what is compiled. `to_steal` are taken once `units` have all been handed out, and
    units that others work on are waited for if `waits_for_others` is set. `on_done` hears of whole units only.
    """

    make_worker: Callable[[Host], Worker]
    units: Sequence[int]
    inputs_of: Callable[[int], tuple[int, ...]]
    shape_of: Callable[[int], Hashable]
    claims: Claims
    stop: StopFlag
    on_done: Callable[[Done], None] = ignore
    on_progress: Callable[[int], None] = ignore
    to_steal: Sequence[int] = ()
    waits_for_others: bool = False
    in_flight: int = 2
    max_poisonous_in_a_row: int = 8


class Releasable(Protocol):
    """A unit that this process works on: a `locks.Claim` or a `leases.Lease`."""

    def release(self) -> None: ...


def check_numerics(dataset: Dataset, numerics: Mapping[str, Any]) -> None:
    """Raises ConfigMismatchError if units were committed on another device, number type, version or batch."""
    recorded = next((record.numerics for record in dataset.commit_records() if record.numerics), numerics)
    if diff := settings_diff(recorded, numerics, "numerics."):
        raise ConfigMismatchError(
            f"{dataset.root} was begun with other numerics, results may differ in places:\n  "
            + "\n  ".join(diff)
            + "\nuse the recorded settings, or --allow-numerics-change"
        )
