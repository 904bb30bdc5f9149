"""Parts merged into shards: equal rows, equal bytes, growth, and the same in a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader, RowReader
from shared.errors import DatasetError
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.maintenance.verify import verify_dataset
from shared.storage.paths import names_in
from tests.support import handmade
from tests.support.handmade import record
from tests.support.sealed import (
    ONE_SHARD,
    ONE_SHARD_PER_UNIT,
    ROWS,
    UNITS,
    add_units,
    digest,
    five_units,
    unit_keys,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return five_units(tmp_path)


@pytest.mark.parametrize(("shard_bytes", "shards"), [(ONE_SHARD, 1), (ONE_SHARD_PER_UNIT, UNITS)])
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


def test_a_dataset_of_refused_inputs_alone_can_be_sealed(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d", keys=())
    assert seal(SealOptions(str(dataset.root))).shards == 0
    assert digest(dataset)


def test_sealing_again_changes_nothing(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root)))
    before = {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()}
    assert seal(SealOptions(str(dataset.root))).written == 0
    assert {path: path.read_bytes() for path in dataset.root.rglob("*") if path.is_file()} == before


def test_equal_datasets_give_equal_shards(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "dataset"
    shutil.copytree(dataset.root, copy)
    for root in (dataset.root, copy):
        seal(SealOptions(str(root), ONE_SHARD_PER_UNIT))
    shards = [{path.name: path.read_bytes() for path in (root / "shards").iterdir()} for root in (dataset.root, copy)]
    assert shards[0] == shards[1]
    assert len(shards[0]) == UNITS, "one shard per unit"
    indexes = [{path.name: path.read_bytes() for path in (root / "index").iterdir()} for root in (dataset.root, copy)]
    assert indexes[0] == indexes[1]
    assert len(indexes[0]) == 1


def test_what_was_added_joins_the_last_small_shard(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    add_units(dataset, 2)
    before = digest(dataset)
    result = seal(SealOptions(str(dataset.root), ONE_SHARD))
    assert (result.shards, result.written, result.rows) == (1, 1, (UNITS + 2) * ROWS)
    assert len(list(dataset.shards.glob("codes-*"))) == 1, "the shard it replaces is gone"
    assert digest(dataset) == before


def test_full_shards_stay_when_more_is_added(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    full = {path.name for path in dataset.shards.glob("codes-*")}
    add_units(dataset, 1)
    assert seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT)).written == 1
    assert full < {path.name for path in dataset.shards.glob("codes-*")}


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


def test_verify_notices_a_damaged_index(dataset: Dataset) -> None:
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    (index,) = dataset.index.iterdir()
    content = index.read_bytes()
    for damaged in (
        content.replace(b"picture-3-1", b"picture-3-x"),
        content[:-9],
        content.replace(b"codes-", b"kodes-"),
        None,
    ):
        assert damaged != content
        if damaged is None:
            index.unlink()
        else:
            index.write_bytes(damaged)
        (problem,) = verify_dataset(Dataset(dataset.root)).problems
        assert index.name in problem
        with pytest.raises(DatasetError, match=index.name):
            KeyReader(Dataset(dataset.root))
        seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
        assert index.read_bytes() == content, "sealing again writes it again"


def test_sealing_a_remote_dataset(remote_root: str) -> None:
    dataset = handmade.make(remote_root)
    before = digest(dataset)
    assert seal(SealOptions(remote_root)).rows == 3
    assert digest(dataset) == before
    (left,) = [name for name in names_in(dataset.parts) if name.endswith(".arrow")]
    assert left == dataset.record(1).part, "a part without rows is in no shard"


def test_a_folder_with_the_name_of_a_shard_or_an_index_stays(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    folders = [dataset.shards / "codes-old", dataset.index / "keys.old"]
    for folder in folders:
        folder.mkdir(parents=True)
    seal(SealOptions(str(dataset.root)))
    assert all(folder.is_dir() for folder in folders)
    assert len(list(KeyReader(Dataset(dataset.root)))) == UNITS * ROWS
