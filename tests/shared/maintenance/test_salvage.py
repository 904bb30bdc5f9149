"""Damaged units set aside with their intact rows, and committed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.maintenance.options import SealOptions
from shared.maintenance.salvage import repaired_units, set_damaged_aside
from shared.maintenance.seal import seal
from shared.maintenance.sweep import sweep
from shared.maintenance.verify import verify_dataset
from tests.support import handmade
from tests.support.handmade import NUMERICS, record, refusal
from tests.support.sealed import (
    ONE_SHARD,
    ROWS,
    UNITS,
    codes_offset,
    commit,
    digest,
    five_units,
    flip,
    rows_of,
    unit_keys,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return five_units(tmp_path)


def test_a_damaged_row_in_a_part_is_set_aside_and_the_others_kept(dataset: Dataset) -> None:
    part = dataset.parts / dataset.record(1).part
    flip(part, codes_offset(part, 4))
    (found,) = set_damaged_aside(dataset, dataset.plan())
    assert (found.unit, found.kept, found.rows) == (1, 2, 3)
    assert dataset.missing_units(dataset.plan()) == [1]
    commit(dataset, [1])
    assert list(repaired_units(dataset)) == [(1, True)]
    assert not dataset.damaged.exists()


def test_other_bytes_after_a_repair_are_reported(dataset: Dataset) -> None:
    part = dataset.parts / dataset.record(1).part
    flip(part, codes_offset(part, 4))
    set_damaged_aside(dataset, dataset.plan())
    dataset.commit(UnitResult(1, [record(90, key) for key in unit_keys(1)], numerics=NUMERICS), dataset.plan())
    assert list(repaired_units(dataset)) == [(1, False)]


def test_units_of_a_damaged_shard_get_their_parts_back(dataset: Dataset) -> None:
    before = digest(dataset)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    opened = Dataset(dataset.root)
    (shard,) = opened.shards.glob("codes-*")
    flip(shard, codes_offset(shard, 4))
    assert "sha256" in verify_dataset(Dataset(dataset.root)).problems[0]
    (found,) = set_damaged_aside(opened, opened.plan())
    assert (found.unit, found.kept) == (1, 2), "only the unit of the damaged row is encoded again"
    commit(opened, [1])
    assert digest(opened) == before
    assert seal(SealOptions(str(dataset.root))).rows == UNITS * ROWS
    assert digest(opened) == before


def test_a_damaged_manifest_of_a_sealed_dataset_is_written_again(dataset: Dataset) -> None:
    before = digest(dataset)
    seal(SealOptions(str(dataset.root)))
    flip(dataset.manifest_path, 40)
    opened = Dataset(dataset.root)
    assert set_damaged_aside(opened, opened.plan()) == []
    assert digest(opened) == before


def test_a_damaged_commit_record_makes_its_unit_missing(dataset: Dataset) -> None:
    flip(dataset.record_path(3), 20)
    (found,) = set_damaged_aside(dataset, dataset.plan())
    assert (found.unit, found.kept) == (3, 0)
    assert dataset.missing_units(dataset.plan()) == [3]


def test_a_damaged_commit_record_of_a_sealed_unit_keeps_the_rows(dataset: Dataset) -> None:
    before = digest(dataset)
    seal(SealOptions(str(dataset.root)))
    flip(dataset.record_path(3), 20)
    opened = Dataset(dataset.root)
    (found,) = set_damaged_aside(opened, opened.plan())
    assert (found.unit, found.kept, found.rows) == (3, ROWS, ROWS)
    sweep(opened)
    plan = opened.plan()
    opened.commit(load_partial(opened, plan, 3, NUMERICS), plan)
    opened.write_manifest(plan)
    assert digest(opened) == before


def test_rows_are_not_kept_if_the_other_units_were_computed_in_different_ways(dataset: Dataset) -> None:
    dataset.record_path(0).unlink()
    dataset.commit(UnitResult(0, rows_of(0), numerics={"device": "other"}), dataset.plan())
    seal(SealOptions(str(dataset.root)))
    flip(dataset.record_path(3), 20)
    opened = Dataset(dataset.root)
    (found,) = set_damaged_aside(opened, opened.plan())
    assert (found.unit, found.kept) == (3, 0)


def test_a_damaged_quarantine_file_keeps_the_rows(tmp_path: Path) -> None:
    inputs = (PlannedInput(0, "a", "a.png"), PlannedInput(1, "refused-1", "1.png"))
    freeze_plan(tmp_path / "plan.arrow", [Unit(0, 16, 24, inputs)], handmade.settings(), 2)
    dataset = Dataset(tmp_path)
    dataset.commit(UnitResult(0, [record(0, "a")], refusals=[refusal(1)], numerics=NUMERICS), dataset.plan())
    flip(dataset.quarantine / str(dataset.record(0).quarantine), 5)
    (found,) = set_damaged_aside(dataset, dataset.plan())
    assert (found.kept, found.rows) == (1, 1)


def test_a_row_with_a_damaged_key_or_caption_is_not_kept(tmp_path: Path) -> None:
    """Checksums of rows cover their codes only, but the plan knows the rest."""
    dataset, plan = handmade.freeze(tmp_path / "d", ["one", "two", "three"])
    dataset.commit(UnitResult(0, [record(i, key) for i, key in enumerate(("one", "two", "three"))]), plan)
    part = dataset.parts / dataset.record(0).part
    part.write_bytes(part.read_bytes().replace(b"onetwo", b"onetwa").replace(b"caption 2", b"caption 3"))
    (found,) = set_damaged_aside(dataset, plan)
    assert (found.kept, found.rows) == (1, 3)
