"""The index by key: hashes, order and the shards it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.dataset import key_index
from shared.dataset.key_index import KeyIndex, RowLocation, index_path, shards_of_index
from shared.dataset.rows import to_record_batches
from shared.dataset.shards import ShardReader
from shared.maintenance.seal import SealOptions, seal
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
    monkeypatch.setattr(key_index, "_hash", lambda key: 7)
    collided = index()
    for unit in (1, 3):
        for row, key in enumerate(unit_keys(unit)):
            assert collided.find(key) == RowLocation(unit, 0, row)
    assert collided.find("nobody") is None


def test_an_empty_index_finds_nothing() -> None:
    empty = KeyIndex.build([])
    assert (len(empty), list(empty.keys()), empty.find("a")) == (0, [], None)


def test_an_index_belongs_to_exactly_its_shards(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    shards = list(dataset.manifest().shards)
    assert len(shards) == UNITS
    assert index_path(dataset.shards, shards).is_file()
    assert not index_path(dataset.shards, shards[1:]).is_file()
    assert shards_of_index(dataset.shards) == shards
    before = index_path(dataset.shards, shards).read_bytes()
    KeyIndex.of_shards(ShardReader(dataset.shards, shards)).write(dataset.shards, shards)
    assert index_path(dataset.shards, shards).read_bytes() == before
