"""The index of a sealed dataset: where each key's row stands, and its size, to read one row without the others.

Sorted by a 64-bit hash of the key, so that a key is found by bisection in a memory-mapped column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from shared.dataset.dataset import Dataset
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.dataset.shards import Shard
from shared.errors import DatasetError
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, digest_of
from shared.storage.paths import names_in, read_buffer

_SHARDS = b"shards"
_SCHEMA = pa.schema(
    [
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("t", pa.uint16(), nullable=False),
        pa.field("h", pa.uint16(), nullable=False),
        pa.field("w", pa.uint16(), nullable=False),
        pa.field("text_length", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class IndexedRow:
    """Where a row stands: record batch `batch` of its unit, row `row` in it; grid size; bytes of its caption."""

    key: str
    unit: int
    batch: int
    row: int
    t: int
    h: int
    w: int
    text_length: int


def key_hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def index_path(dataset: Dataset, shards: Sequence[Shard]) -> Path:
    """The index of exactly these shards."""
    return dataset.shards / f"index.{digest_of([shard.sha256 for shard in shards])[:12]}.arrow"


def write_index(dataset: Dataset, shards: Sequence[Shard]) -> None:
    """Reads what the shards hold, but for the codes."""
    batches = [batch for shard in shards for batch in _shard_rows(dataset, shard)]
    table = pa.Table.from_batches(batches, schema=_SCHEMA)
    order = np.argsort(table.column("key_hash").to_numpy(), kind="stable")
    listed = canonical_json([shard.to_dict() for shard in shards]).encode()
    sink, schema = pa.BufferOutputStream(), _SCHEMA.with_metadata({_SHARDS: listed})
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.take(pa.array(order)).combine_chunks())
    write_file(index_path(dataset, shards), sink.getvalue())


def shards_of_index(dataset: Dataset) -> list[Shard]:
    """The shards as their index lists them, for a manifest that is damaged."""
    for name in sorted(names_in(dataset.shards)):
        if name.startswith("index."):
            metadata = pa.ipc.open_file(read_buffer(dataset.shards / name)).schema.metadata
            return [Shard.from_dict(shard) for shard in json.loads(metadata[_SHARDS])]
    return []


def _shard_rows(dataset: Dataset, shard: Shard) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(read_buffer(dataset.shards / shard.shard))
    for unit, first, count in shard.units:
        for index in range(count):
            batch = reader.get_batch(first + index)
            keys, rows = batch.column("key").to_pylist(), batch.num_rows
            texts = batch.column("text").to_pylist()
            columns = {
                "key_hash": [key_hash(key) for key in keys],
                "key": keys,
                "unit": [unit] * rows,
                "batch": [index] * rows,
                "row": list(range(rows)),
                **{name: batch.column(name) for name in ("t", "h", "w")},
                "text_length": [len((text or "").encode()) for text in texts],
            }
            yield pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


class ShardIndex:
    """Rows of a sealed dataset by key. Raises DatasetError if there is no index."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        path = index_path(dataset, dataset.sealed.shards)
        if not path.is_file():
            raise DatasetError(f"{path}: no index of the shards; run `emu3 seal {dataset.root}`")
        self._table = pa.ipc.open_file(read_buffer(path)).read_all()
        self._hashes = self._table.column("key_hash").to_numpy()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def find(self, key: str) -> IndexedRow | None:
        """Where the row of a key stands, if there is one."""
        wanted = key_hash(key)
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while place < len(self._hashes) and int(self._hashes[place]) == wanted:
            values = self._table.slice(place, 1).to_pylist()[0]
            if values.pop("key_hash") == wanted and values["key"] == key:
                return IndexedRow(**values)
            place += 1
        return None

    def read(self, key: str) -> CodeRecord | None:
        """The row of a key; only its record batch is read. Raises DatasetError if it is damaged."""
        place = self.find(key)
        if place is None:
            return None
        batch = self.dataset.sealed.batch(place.unit, place.batch).slice(place.row, 1)
        if damaged_keys(batch):
            raise DatasetError(
                f"{self.dataset.root}: row {key!r}: codes do not match their checksum; run `emu3 repair`"
            )
        return next(from_record_batch(batch))
