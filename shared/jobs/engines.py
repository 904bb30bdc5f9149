"""Chooses the processes that run a job: this one, one per device of this machine, or the actors of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from tqdm import tqdm

from shared.errors import UsageError
from shared.jobs.claims import UnitClaims
from shared.jobs.file_locks import try_lock
from shared.jobs.job import Job, TaskResult, Worker, WorkerContext
from shared.jobs.leases import Leases
from shared.jobs.local_engine import run_in_process, run_local
from shared.jobs.rank import Rank, resolve_rank, split_units
from shared.jobs.signals import StopFlag
from shared.jobs.units import Units
from shared.storage.paths import is_local

ENGINES = ("here", "local", "ray")
MAX_IN_FLIGHT = 2  # per worker process: one unit to compute, one to read ahead


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Which processes do the work.

    `here` is this process alone; `local` and `ray` run `workers` processes, one per device. If a cluster scheduler
    starts the same command `world_size` times, the one with number `rank` starts with its own share of the units and
    then steals from the others.
    """

    engine: str = "here"
    workers: int = 1
    rank: int | None = None
    world_size: int | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine}: expected one of {', '.join(ENGINES)}")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected at least 1")
        if self.engine == "here" and self.workers > 1:
            raise UsageError(f"--workers {self.workers} needs --engine local or ray")
        if self.ray_address and self.engine != "ray":
            raise UsageError("--ray-address needs --engine ray")
        self.resolve_rank()

    def resolve_rank(self) -> Rank:
        """Return the rank of this process, from these options or from the environment."""
        return resolve_rank(self.rank, self.world_size, os.environ)

    @property
    def rank_count(self) -> int:
        """Number of equal commands that share the units."""
        return self.resolve_rank().world_size

    def run(self, job: Job) -> None:
        """Run a job to completion. Raises the errors of its workers, or Interrupted after a signal."""
        if self.engine == "ray":
            from shared.jobs.ray_engine import run_ray

            run_ray(job, self.workers, self.ray_address)
        elif self.engine == "local":
            run_local(job, self.workers)
        else:
            run_in_process(job)


@dataclass(slots=True)
class RunTotals:
    """The sums over all task results of one run."""

    units: int = 0
    rows: int = 0
    resumed_rows: int = 0
    quarantined: int = 0
    invalid: list[tuple[str, str]] = field(default_factory=list)

    def add(self, result: TaskResult) -> None:
        self.units += 1
        self.rows += result.rows
        self.resumed_rows += result.resumed_rows
        self.quarantined += result.quarantined
        self.invalid += result.invalid


def run_units(
    units: Units,
    make_worker: Callable[[WorkerContext], Worker],
    options: EngineOptions,
    stop: StopFlag,
    bar: tqdm,
) -> RunTotals:
    """Complete the missing units.

    Units claimed by other jobs are left to them; a rank takes over the units of ranks that died.
    """
    rank, totals = options.resolve_rank(), RunTotals()
    own, others = split_units(rank, units.missing)
    bar.reset(units.progress_total)
    bar.update(units.progress_done)

    def on_result(result: TaskResult) -> None:
        totals.add(result)
        units.log(result.task.unit, result.rows, result.elapsed_s)

    with ExitStack() as stack:
        stack.enter_context(bar)
        needs_leases = rank.world_size > 1 or not is_local(units.claim_path(0))
        acquire = stack.enter_context(Leases()).try_lease if needs_leases else try_lock
        claims = stack.enter_context(UnitClaims(units, acquire))
        options.run(
            Job(
                make_worker,
                own,
                catalog=units,
                claims=claims,
                stop=stop,
                on_result=on_result,
                on_progress=bar.update,
                steal_units=others,
                wait_for_others=rank.world_size > 1,
                max_in_flight=MAX_IN_FLIGHT if options.engine != "here" else max(1, len(units.missing)),
            )
        )
    return totals
