"""The index by key: hashes, order and the shards it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.dataset import key_index
from shared.dataset.key_index import KeyIndex, RowLocation
from shared.dataset.rows import to_record_batches
from shared.errors import DatasetError
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from tests.support.sealed import ONE_SHARD_PER_UNIT, ROWS, UNITS, five_units, rows_of, unit_keys


def index() -> KeyIndex:
    return KeyIndex.build((unit, to_record_batches(rows_of(unit))) for unit in (3, 1))


def test_every_key_is_found() -> None:
    assert len(index()) == 2 * ROWS
    for unit in (1, 3):
        for row, key in enumerate(unit_keys(unit)):
            assert index().find(key) == RowLocation(unit, 0, row)
    assert index().find("nobody") is None
    assert list(index().keys()) == [*unit_keys(1), *unit_keys(3)]


def test_keys_of_equal_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "hash_of_key", lambda key: 7)
    collided = index()
    for unit in (1, 3):
        for row, key in enumerate(unit_keys(unit)):
            assert collided.find(key) == RowLocation(unit, 0, row)
    assert collided.find("nobody") is None


def test_an_empty_index_finds_nothing() -> None:
    empty = KeyIndex.build([])
    assert (len(empty), list(empty.keys()), empty.find("a")) == (0, [], None)


def test_the_file_is_compared_with_its_checksum(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    manifest = dataset.manifest()
    assert len(manifest.shards) == UNITS
    assert manifest.index
    path = dataset.index / manifest.index.file
    assert len(KeyIndex.read(dataset.index, manifest.index)) == UNITS * ROWS
    reader = manifest.reader(dataset.shards)
    assert KeyIndex.of_shards(reader).write(dataset.index, manifest.shards) == manifest.index
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=path.name):
        KeyIndex.read(dataset.index, manifest.index)


def test_some_units_of_an_index() -> None:
    assert list(index().of_units({1, 7}).keys()) == unit_keys(1)
    assert index().of_units({1, 7}).find(unit_keys(3)[0]) is None
    assert len(index().of_units({1, 2, 3})) == 2 * ROWS
