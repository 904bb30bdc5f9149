"""A dataset of five units to seal, and to damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit, addition_path
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import (
    CodeRecord,
)
from shared.maintenance.verify import verify_dataset
from tests.support import handmade
from tests.support.handmade import NUMERICS, record

UNITS, ROWS = 5, 3
ONE_SHARD, ONE_SHARD_PER_UNIT = 1 << 30, 1


def unit_keys(unit: int) -> list[str]:
    return [f"folder/picture-{unit}-{row}" for row in range(ROWS)]


def planned(unit: int) -> Unit:
    inputs = [PlannedInput(unit * ROWS + row, key, f"{key}.png") for row, key in enumerate(unit_keys(unit))]
    return Unit(unit, 16, 24, tuple(inputs))


def rows_of(unit: int) -> list[CodeRecord]:
    return [record(unit * ROWS + row, key) for row, key in enumerate(unit_keys(unit))]


def commit(dataset: Dataset, units: Sequence[int]) -> None:
    plan = dataset.plan()
    for unit in units:
        dataset.commit(UnitResult(unit, rows_of(unit), numerics=NUMERICS), plan)
    dataset.write_manifest(plan)


def five_units(tmp_path: Path) -> Dataset:
    """Write a dataset of five committed units of three rows."""
    freeze_plan(tmp_path / "plan.arrow", [planned(unit) for unit in range(UNITS)], handmade.settings(), UNITS * ROWS)
    dataset = Dataset(tmp_path)
    commit(dataset, range(UNITS))
    return dataset


def digest(dataset: Dataset) -> str:
    """Return the digest of a dataset that must be undamaged and complete."""
    report = verify_dataset(Dataset(dataset.root))
    assert report.problems == []
    assert report.is_complete
    return report.digest


def add_units(dataset: Dataset, count: int) -> None:
    units = [planned(unit) for unit in range(UNITS, UNITS + count)]
    freeze_plan(addition_path(dataset.plan_path, 1), units, handmade.settings(), count * ROWS)
    commit(dataset, range(UNITS, UNITS + count))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def codes_offset(path: Path, index: int) -> int:
    """Return the offset of a row's codes in a file."""
    return path.read_bytes().index(record(index, "").codes_bytes)
