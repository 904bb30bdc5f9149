"""Runs the units of a dataset: which are missing, and the sums over what was computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, UnitSize
from shared.errors import ConfigMismatchError
from shared.jobs.claims import Leases, UnitClaims
from shared.jobs.engines import EngineOptions
from shared.jobs.file_locks import try_lock
from shared.jobs.job import Job, TaskResult, Units, Worker, WorkerContext
from shared.jobs.rank import split_units
from shared.jobs.signals import StopFlag
from shared.storage.digests import settings_diff
from shared.storage.paths import is_local

MAX_IN_FLIGHT = 2  # per worker process: one unit to compute, one to read ahead


@dataclass(frozen=True, slots=True)
class PlanUnits:
    """The units of a dataset's plan."""

    dataset: Dataset
    plan: Plan
    sizes: Sequence[UnitSize]
    missing: Sequence[int]
    progress_total: int
    progress_done: int

    @classmethod
    def of(cls, dataset: Dataset, plan: Plan) -> PlanUnits:
        """Count progress in inputs. Raises DatasetError if a commit record or the manifest is not of this dataset."""
        dataset.check()
        sizes, missing = plan.sizes(), dataset.missing_units(plan)
        inputs_missing = sum(sizes[unit].inputs for unit in missing)
        return cls(dataset, plan, sizes, missing, plan.input_count, plan.input_count - inputs_missing)

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return self.plan.src_indices(unit)

    def shape(self, unit: int) -> Hashable:
        size = self.sizes[unit]
        return size.frames > 1, size.height, size.width

    def claim_path(self, unit: int) -> Path:
        return self.dataset.claim_path(unit)

    def is_committed(self, unit: int) -> bool:
        return self.dataset.is_committed(unit)

    def log(self, unit: int, rows: int, elapsed_s: float) -> None:
        self.dataset.events.append_unit(unit, rows, elapsed_s)


def check_numerics(dataset: Dataset, numerics: Mapping[str, Any]) -> None:
    """Raise ConfigMismatchError if units were committed with another device, number type, version or batch size."""
    recorded = next((record.numerics for record in dataset.commit_records() if record.numerics), numerics)
    if diff := settings_diff(recorded, numerics, "numerics."):
        raise ConfigMismatchError(
            f"{dataset.root} was created with different numerics; individual codes may differ:\n  "
            + "\n  ".join(diff)
            + "\nuse the recorded settings, or --allow-numerics-change"
        )


@dataclass(slots=True)
class RunTotals:
    """The sums over all task results of one run; `units_left` are left to other jobs, which hold them."""

    units: int = 0
    units_left: int = 0
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


@contextmanager
def _claims(units: Units, world_size: int) -> Iterator[UnitClaims]:
    """Claim units by leases, which work between machines, or on one machine by file locks."""
    with ExitStack() as stack:
        needs_leases = world_size > 1 or not is_local(units.claim_path(0))
        acquire = stack.enter_context(Leases()).try_lease if needs_leases else try_lock
        yield stack.enter_context(UnitClaims(units, acquire))


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

    with bar, _claims(units, rank.world_size) as claims:
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
        totals.units_left = len(claims.held_elsewhere)
    return totals
