"""Sealing parts into shards, reading from them, and mending what is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit, addition_path
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import KeyReader, RowReader
from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError, RefusedInput
from shared.maintenance.salvage import repaired_units, set_damaged_aside
from shared.maintenance.seal import SealOptions, seal
from shared.maintenance.verify import verify_dataset
from tests.support.handmade import NUMERICS, record, refusal, settings

UNITS, ROWS = 5, 3
ONE_SHARD, A_SHARD_A_UNIT = 1 << 30, 1


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


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five units of three rows, committed."""
    freeze_plan(tmp_path / "plan.arrow", [planned(unit) for unit in range(UNITS)], settings(), UNITS * ROWS)
    dataset = Dataset(tmp_path)
    commit(dataset, range(UNITS))
    return dataset


def digest(dataset: Dataset) -> str:
    """Of an undamaged dataset."""
    report = verify_dataset(Dataset(dataset.root))
    assert report.problems == []
    assert report.is_complete
    return report.digest


def add_units(dataset: Dataset, count: int) -> None:
    units = [planned(unit) for unit in range(UNITS, UNITS + count)]
    freeze_plan(addition_path(dataset.plan_path, 1), units, settings(), count * ROWS)
    commit(dataset, range(UNITS, UNITS + count))


@pytest.mark.parametrize(("shard_bytes", "shards"), [(ONE_SHARD, 1), (A_SHARD_A_UNIT, UNITS)])
def test_a_sealed_dataset_reads_as_before(dataset: Dataset, shard_bytes: int, shards: int) -> None:
    before = digest(dataset)
    result = seal(SealOptions(str(dataset.root), shard_bytes))
    assert (result.shards, result.written, result.rows) == (shards, shards, UNITS * ROWS)
    assert not list(dataset.parts.glob("*.arrow")), "parts that are in shards are removed"
    opened = Dataset(dataset.root)
    assert digest(opened) == before
    assert list(KeyReader(opened)) == [key for unit in range(UNITS) for key in unit_keys(unit)]
    reader = RowReader(opened)
    assert np.array_equal(reader.codes_THW(7), record(7, "").codes_THW)


def test_sealing_again_changes_nothing(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root)))
    before = {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()}
    assert seal(SealOptions(str(dataset.root))).written == 0
    assert {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()} == before


def test_equal_datasets_give_equal_shards(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "dataset"
    shutil.copytree(dataset.root, copy)
    for root in (dataset.root, copy):
        seal(SealOptions(str(root), A_SHARD_A_UNIT))
    shards = [{path.name: path.read_bytes() for path in (root / "shards").iterdir()} for root in (dataset.root, copy)]
    assert shards[0] == shards[1]
    assert len(shards[0]) == UNITS + 1, "a shard a unit, and the index"


def test_what_was_added_joins_the_last_small_shard(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    add_units(dataset, 2)
    before = digest(dataset)
    result = seal(SealOptions(str(dataset.root), ONE_SHARD))
    assert (result.shards, result.written, result.rows) == (1, 1, (UNITS + 2) * ROWS)
    assert len(list(dataset.shards.glob("codes-*"))) == 1, "the shard it replaces is gone"
    assert digest(dataset) == before


def test_full_shards_stay_when_more_is_added(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), A_SHARD_A_UNIT))
    full = {path.name for path in dataset.shards.glob("codes-*")}
    add_units(dataset, 1)
    assert seal(SealOptions(str(dataset.root), A_SHARD_A_UNIT)).written == 1
    assert full < {path.name for path in dataset.shards.glob("codes-*")}


def test_the_index_finds_every_row_and_reads_it_alone(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), A_SHARD_A_UNIT))
    reader = KeyReader(Dataset(dataset.root))
    assert len(reader) == UNITS * ROWS
    for unit in range(UNITS):
        for row in rows_of(unit):
            assert reader.row(row.key).digest() == row.digest()
    with pytest.raises(RefusedInput, match="'nobody'"):
        reader.row("nobody")


def test_incomplete_datasets_are_not_sealed(dataset: Dataset) -> None:
    dataset.record_path(2).unlink()
    with pytest.raises(DatasetError, match="1 of 5 units are missing"):
        seal(SealOptions(str(dataset.root)))
    assert len(list(dataset.parts.glob("*.arrow"))) >= UNITS - 1


def test_pyarrow_reads_shards_by_itself(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root)))
    (path,) = dataset.shards.glob("codes-*.arrow")
    table = pa.ipc.open_file(str(path)).read_all()
    assert table.column("key").to_pylist() == [key for unit in range(UNITS) for key in unit_keys(unit)]
    assert table.column("codes")[4].as_py() == record(4, "").codes_THW.reshape(-1).tolist()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def codes_place(path: Path, index: int) -> int:
    """Where the codes of a handmade row stand in a file."""
    return path.read_bytes().index(record(index, "").codes_bytes)


def test_a_damaged_row_in_a_part_is_set_aside_and_the_others_kept(dataset: Dataset) -> None:
    part = dataset.parts / dataset.record(1).part
    flip(part, codes_place(part, 4))
    (found,) = set_damaged_aside(dataset, dataset.plan())
    assert (found.unit, found.kept, found.rows) == (1, 2, 3)
    assert dataset.missing_units(dataset.plan()) == [1]
    commit(dataset, [1])
    assert list(repaired_units(dataset)) == [(1, True)]
    assert not dataset.damaged.exists()


def test_other_bytes_after_mending_are_told(dataset: Dataset) -> None:
    part = dataset.parts / dataset.record(1).part
    flip(part, codes_place(part, 4))
    set_damaged_aside(dataset, dataset.plan())
    dataset.commit(UnitResult(1, [record(90, key) for key in unit_keys(1)], numerics=NUMERICS), dataset.plan())
    assert list(repaired_units(dataset)) == [(1, False)]


def test_units_of_a_damaged_shard_get_their_parts_back(dataset: Dataset) -> None:
    before = digest(dataset)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    opened = Dataset(dataset.root)
    (shard,) = opened.shards.glob("codes-*")
    flip(shard, codes_place(shard, 4))
    assert "sha256" in verify_dataset(Dataset(dataset.root)).problems[0]
    (found,) = set_damaged_aside(opened, opened.plan())
    assert (found.unit, found.kept) == (1, 2), "only the unit of the damaged row is to be made again"
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


def test_a_damaged_quarantine_file_keeps_the_rows(tmp_path: Path) -> None:
    inputs = (PlannedInput(0, "a", "a.png"), PlannedInput(1, "refused-1", "1.png"))
    freeze_plan(tmp_path / "plan.arrow", [Unit(0, 16, 24, inputs)], settings(), 2)
    dataset = Dataset(tmp_path)
    dataset.commit(UnitResult(0, [record(0, "a")], refusals=[refusal(1)], numerics=NUMERICS), dataset.plan())
    flip(dataset.quarantine / str(dataset.record(0).quarantine), 5)
    (found,) = set_damaged_aside(dataset, dataset.plan())
    assert (found.kept, found.rows) == (1, 1)
