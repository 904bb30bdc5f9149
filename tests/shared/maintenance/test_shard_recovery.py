"""Which units shards hold, found out without their manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, PlannedInput, Unit, addition_path
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.shards import Shard
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.maintenance.shard_recovery import recover_shards
from tests.support import handmade
from tests.support.handmade import NUMERICS, record, refusal
from tests.support.sealed import ONE_SHARD, ONE_SHARD_PER_UNIT, UNITS, codes_offset, five_units, flip


def recovered(dataset: Dataset) -> list[Shard]:
    return list(recover_shards(dataset, dataset.plan(), dataset.commit_records()).shards)


@pytest.mark.parametrize("shard_bytes", [ONE_SHARD, ONE_SHARD_PER_UNIT])
def test_all_shards_are_found_as_the_manifest_lists_them(tmp_path: Path, shard_bytes: int) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), shard_bytes))
    assert recovered(dataset) == list(dataset.manifest().shards)


def test_units_of_more_than_one_batch_and_inputs_that_were_tried_again(tmp_path: Path) -> None:
    """Input 2 is refused in unit 0 and a row of unit 1; both units plan it."""
    inputs = [PlannedInput(index, f"k{index}", f"{index}.png") for index in range(600)]
    freeze_plan(tmp_path / "plan.arrow", [Unit(0, 16, 24, tuple(inputs))], handmade.settings(), 600)
    freeze_plan(
        addition_path(tmp_path / "plan.arrow", 1), [Unit(1, 16, 24, (inputs[2],))], handmade.settings(), 1, {"empty": 1}
    )
    dataset = Dataset(tmp_path)
    plan, rows = dataset.plan(), [record(index, f"k{index}") for index in range(600)]
    first = UnitResult(0, [*rows[:2], *rows[3:]], refusals=[replace(refusal(2), key="k2")], numerics=NUMERICS)
    for result in (first, UnitResult(1, [rows[2]], numerics=NUMERICS)):
        dataset.commit(result, plan)
    dataset.write_manifest(plan)
    seal(SealOptions(str(dataset.root)))
    assert recovered(dataset) == list(dataset.manifest().shards)
    assert dataset.manifest().shards[0].units == ((0, 0, 3), (1, 3, 1))


def test_rows_that_are_no_longer_committed_are_not_listed(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    dataset.record_path(1).unlink()
    again = Dataset(dataset.root)
    again.commit(UnitResult(1, [record(90, "x")], numerics=NUMERICS), again.plan())
    dataset.record_path(3).unlink()
    (shard,) = recovered(dataset)
    assert [unit for unit, _, _ in shard.units] == [0, 2, 4]


def test_a_damaged_shard_lists_what_can_be_recognized_and_matches_no_checksum(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    (path,) = dataset.shards.iterdir()
    flip(path, codes_offset(path, 4))
    reader = recover_shards(dataset, dataset.plan(), dataset.commit_records())
    assert reader.units == set(range(UNITS))
    assert "sha256" in str(reader.problem(0))
    path.write_bytes(b"nothing")
    assert recovered(dataset) == []


def test_a_unit_in_two_shards_is_listed_once(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    small = {path: path.read_bytes() for path in dataset.shards.iterdir()}
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    dataset.manifest_path.unlink()
    for path, content in small.items():
        path.write_bytes(content)
    units = [unit for shard in recovered(dataset) for unit, _, _ in shard.units]
    assert sorted(units) == list(range(UNITS))


def test_the_inputs_of_a_unit_are_read_as_often_whatever_the_number_of_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of units that are no longer committed must not be compared with all others."""
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    for unit in range(UNITS - 1):
        dataset.record_path(unit).unlink()
    calls: list[int] = []
    src_indices = Plan.src_indices
    monkeypatch.setattr(Plan, "src_indices", lambda plan, unit: calls.append(unit) or src_indices(plan, unit))
    (shard,) = recovered(dataset)
    assert [unit for unit, _, _ in shard.units] == [UNITS - 1]
    assert calls == [UNITS - 1] * 2
