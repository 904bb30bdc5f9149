"""Which processes run a job over the units of a dataset: this one, one a device, or a Ray cluster's."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.errors import UsageError
from shared.jobs.claims import UnitClaims
from shared.jobs.file_locks import try_claim
from shared.jobs.job import Done, Host, Job, Worker
from shared.jobs.leases import Leases
from shared.jobs.local_engine import run_here, run_local
from shared.jobs.rank import order_for, resolve_rank
from shared.jobs.signals import StopFlag
from shared.storage.paths import is_local

ENGINES = ("here", "local", "ray")
UNITS_IN_FLIGHT = 2  # of another process: one to work on, one to read ahead in


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Who does the work. `here` is this process alone; `local` and `ray` run `workers` processes, one a device.

    `rank` of `world_size` equal commands, started by a scheduler, begins with its share and then steals from others.
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
        resolve_rank(self.rank, self.world_size, os.environ)

    @property
    def ranks(self) -> int:
        """Number of equal commands that share the work."""
        return resolve_rank(self.rank, self.world_size, os.environ).size

    def run(self, job: Job) -> None:
        """Runs a job to its end. Raises what its workers raise, Interrupted after a signal."""
        if self.engine == "ray":
            from shared.jobs.ray_engine import run_ray

            run_ray(job, self.workers, self.ray_address)
        elif self.engine == "local":
            run_local(job, self.workers)
        else:
            run_here(job)


@dataclass(slots=True)
class Run:
    """What one run has done."""

    units: int = 0
    rows: int = 0
    kept: int = 0
    quarantined: int = 0
    invalid: list[tuple[str, str]] = field(default_factory=list)

    def add(self, done: Done) -> None:
        self.units += 1
        self.rows += done.rows
        self.kept += done.kept
        self.quarantined += done.quarantined
        self.invalid += done.invalid


def no_log(unit: int, rows: int, elapsed_s: float) -> None:
    """For jobs without a log of progress."""


@dataclass(frozen=True, slots=True)
class Units:
    """What a job is over: its missing units in order, the `src_index` of a unit's inputs, what it compiles for them.

    `inputs` counts those of all units, `inputs_missing` those of the missing ones. `log` hears of units that are done:
    number, rows, seconds.
    """

    missing: Sequence[int]
    inputs: int
    inputs_missing: int
    inputs_of: Callable[[int], tuple[int, ...]]
    shape_of: Callable[[int], Hashable]
    claim_path: Callable[[int], Path]
    is_committed: Callable[[int], bool]
    log: Callable[[int, int, float], None] = no_log


def missing_units(dataset: Dataset, plan: Plan) -> Units:
    """The units of a plan without a commit record."""
    sizes, missing = plan.sizes(), dataset.missing_units(plan)
    return Units(
        missing,
        plan.input_count,
        sum(sizes[unit].inputs for unit in missing),
        plan.src_indices,
        lambda unit: (sizes[unit].frames > 1, sizes[unit].height, sizes[unit].width),
        dataset.claim_path,
        dataset.is_committed,
        dataset.log,
    )


def run_units(
    units: Units,
    make_worker: Callable[[Host], Worker],
    options: EngineOptions,
    stop: StopFlag,
    bar: tqdm,
) -> Run:
    """Does missing units. Those that other jobs work on are left to them; a rank takes over from ranks that died."""
    rank, run = resolve_rank(options.rank, options.world_size, os.environ), Run()
    own, others = order_for(rank, units.missing)
    bar.reset(units.inputs)
    bar.update(units.inputs - units.inputs_missing)

    def on_done(done: Done) -> None:
        run.add(done)
        units.log(done.task.unit, done.rows, done.elapsed_s)

    with ExitStack() as stack:
        stack.enter_context(bar)
        needs_leases = rank.size > 1 or not is_local(units.claim_path(0))
        try_to_claim = stack.enter_context(Leases()).try_lease if needs_leases else try_claim
        claims = stack.enter_context(UnitClaims(units.claim_path, units.is_committed, try_to_claim))
        options.run(
            Job(
                make_worker,
                own,
                inputs_of=units.inputs_of,
                shape_of=units.shape_of,
                claims=claims,
                stop=stop,
                on_done=on_done,
                on_progress=bar.update,
                to_steal=others,
                waits_for_others=rank.size > 1,
                in_flight=UNITS_IN_FLIGHT if options.engine != "here" else max(1, len(units.missing)),
            )
        )
    return run
