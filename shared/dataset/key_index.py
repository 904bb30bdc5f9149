"""The index from keys to rows: a table sorted by a 64-bit hash of the key, searched by bisection.

`emu3 seal` writes the table beside the shards, from where it is memory-mapped. For other units it is built in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.dataset.arrow_file import ArrowFile, dump_batches, read_buffer
from shared.dataset.shards import Shard, ShardReader
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, digest_of
from shared.storage.paths import make_directory, names_in

_KEYS_AT_ONCE = 4096  # converted to Python strings
_SHARDS = b"shards"  # in the schema metadata: the shards as the manifest lists them
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
class RowLocation:
    """A row: record batch `batch` of its unit, row `row` of that batch, both counted from 0."""

    unit: int
    batch: int
    row: int


class KeyIndex:
    """An index in memory or in a memory-mapped file."""

    def __init__(self, table: pa.Table):
        self._table = table
        self._hashes = table.column("key_hash").to_numpy()

    @classmethod
    def build(cls, units: Iterable[tuple[int, Iterable[pa.RecordBatch]]]) -> KeyIndex:
        """Index units, given as (unit, record batches of its rows)."""
        entries = [_entries(unit, index, batch) for unit, batches in units for index, batch in enumerate(batches)]
        table = pa.Table.from_batches(entries, schema=_SCHEMA)
        order = np.argsort(table.column("key_hash").to_numpy(), kind="stable")
        return cls(table.take(pa.array(order)).combine_chunks())

    @classmethod
    def read(cls, path: Path) -> KeyIndex:
        """Memory-map the index of a sealed dataset. Raises DatasetError if it cannot be read."""
        return cls(pa.Table.from_batches(ArrowFile(path, "run `emu3 seal`").batches(), schema=_SCHEMA))

    @classmethod
    def of_shards(cls, reader: ShardReader) -> KeyIndex:
        """Index the rows of shards, whose codes are not read. Raises DatasetError if a shard cannot be read."""
        return cls.build((unit, reader.batches(unit)) for shard in reader.shards for unit, _, _ in shard.units)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def equals(self, other: KeyIndex) -> bool:
        return bool(self._table.equals(other._table))

    def find(self, key: str) -> RowLocation | None:
        """Return where the row of a key is, None if the key has no row."""
        hash_value = np.uint64(_hash(key))
        entry = int(np.searchsorted(self._hashes, hash_value))
        while entry < len(self._hashes) and self._hashes[entry] == hash_value:
            if self._table.column("key")[entry].as_py() == key:
                return RowLocation(*(self._table.column(name)[entry].as_py() for name in ("unit", "batch", "row")))
            entry += 1
        return None

    def keys(self) -> Iterator[str]:
        """Yield all keys, in the order of units and rows."""
        unit, batch, row = (self._table.column(name).to_numpy() for name in ("unit", "batch", "row"))
        order = np.lexsort((row, batch, unit))
        for start in range(0, len(order), _KEYS_AT_ONCE):
            yield from self._table.column("key").take(pa.array(order[start : start + _KEYS_AT_ONCE])).to_pylist()

    def write(self, directory: Path, shards: Sequence[Shard]) -> None:
        """Write the index of these shards beside them."""
        make_directory(directory)  # absent if every input was refused
        listed = canonical_json([shard.to_json() for shard in shards]).encode()
        content = dump_batches(self._table.to_batches(), _SCHEMA.with_metadata({_SHARDS: listed}))
        write_file(index_path(directory, shards), content)


def index_path(directory: Path, shards: Sequence[Shard]) -> Path:
    """Return the path of the index of exactly these shards."""
    return directory / f"index.{digest_of([shard.sha256 for shard in shards])[:12]}.arrow"


def shards_of_index(directory: Path) -> list[Shard]:
    """Return the shards as an index in `directory` lists them, for a dataset whose manifest is damaged."""
    for name in sorted(names_in(directory)):
        if name.startswith("index."):
            metadata = pa.ipc.open_file(read_buffer(directory / name)).schema.metadata
            return [Shard.from_json(shard) for shard in json.loads(metadata[_SHARDS])]
    return []


def _entries(unit: int, index: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = batch.num_rows
    columns = {
        "key_hash": pa.array([_hash(key) for key in batch.column("key").to_pylist()], pa.uint64()),
        "key": batch.column("key"),
        "unit": pa.array(np.full(rows, unit, np.int64)),
        "batch": pa.array(np.full(rows, index, np.int32)),
        "row": pa.array(np.arange(rows, dtype=np.int32)),
        **{name: batch.column(name) for name in ("t", "h", "w")},
        "text_length": pc.fill_null(pc.binary_length(batch.column("text")), 0),
    }
    return pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
