"""The index from keys to rows: a table sorted by a 64-bit hash of the key, searched by bisection.

`emu3 seal` writes the table to `index/`, from where it is memory-mapped. For other units it is built in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shared.dataset.arrow_file import ArrowFile, dump_batches
from shared.dataset.shards import IndexFile, Shard, ShardReader
from shared.errors import DatasetError
from shared.storage.atomic import write_hashed_file
from shared.storage.digests import canonical_json
from shared.storage.paths import checksum_problem

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
    def read(cls, directory: Path, index: IndexFile) -> KeyIndex:
        """Memory-map the index of a sealed dataset. Raises DatasetError if it is missing or damaged."""
        if problem := index_problem(directory, index):
            raise DatasetError(problem)
        file = ArrowFile(directory / index.file, lambda schema: bool(schema.equals(_SCHEMA)), "run `emu3 seal`")
        return cls(pa.Table.from_batches(file.batches(), schema=_SCHEMA))

    @classmethod
    def of_shards(cls, reader: ShardReader) -> KeyIndex:
        """Index the rows of shards, whose codes are not read. Raises DatasetError if a shard cannot be read."""
        return cls.build((unit, reader.batches(unit)) for shard in reader.shards for unit, _, _ in shard.units)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def of_units(self, units: Collection[int]) -> KeyIndex:
        """Return the index of some of its units; itself if it has no others."""
        found = pc.unique(self._table.column("unit")).to_pylist()
        if not set(found) - set(units):
            return self
        return KeyIndex(self._table.filter(pc.is_in(self._table.column("unit"), pa.array(units, pa.int64()))))

    def find(self, key: str) -> RowLocation | None:
        """Return where the row of a key is, None if the key has no row."""
        hash_value = np.uint64(hash_of_key(key))
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

    def write(self, directory: Path, shards: Sequence[Shard]) -> IndexFile:
        """Write the index of these shards and read it back. Raises DatasetError if the disk returned other bytes."""
        listed = canonical_json([shard.to_json() for shard in shards]).encode()
        content = dump_batches(self._table.to_batches(), _SCHEMA.with_metadata({_SHARDS: listed}))
        index = IndexFile(*write_hashed_file(directory, "keys", content, "arrow"), len(content))
        if problem := index_problem(directory, index):
            raise DatasetError(f"{problem}; the disk returned other bytes than were written")
        return index


def index_problem(directory: Path, index: IndexFile) -> str | None:
    """Return how an index differs from its checksum, None if it does not."""
    problem = checksum_problem(directory / index.file, index.sha256)
    return problem and f"{problem}; run `emu3 seal`"


def _entries(unit: int, index: int, batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = batch.num_rows
    columns = {
        "key_hash": pa.array([hash_of_key(key) for key in batch.column("key").to_pylist()], pa.uint64()),
        "key": batch.column("key"),
        "unit": pa.array(np.full(rows, unit, np.int64)),
        "batch": pa.array(np.full(rows, index, np.int32)),
        "row": pa.array(np.arange(rows, dtype=np.int32)),
        **{name: batch.column(name) for name in ("t", "h", "w")},
        "text_length": pc.fill_null(pc.binary_length(batch.column("text")), 0),
    }
    return pa.RecordBatch.from_pydict(columns, schema=_SCHEMA)


def hash_of_key(key: str) -> int:
    """Return the first 64 bits of the BLAKE2b digest of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
