"""The units of work of a job: what the scheduler and the engines need to know about them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import ConfigMismatchError
from shared.storage.digests import settings_diff

if TYPE_CHECKING:  # every worker process imports this module first
    from shared.dataset.dataset import Dataset
    from shared.dataset.plan import Plan, UnitSize


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
        """Count progress in inputs."""
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
