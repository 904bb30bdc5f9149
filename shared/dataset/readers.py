"""Random access to the rows of a dataset: by number for training, by key for prompts and questions.

Files are memory-mapped, so only the rows that are read take memory. Shape suffixes: T frames, H W grid.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

import numpy as np
import pyarrow as pa

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import KeyIndex, RowLocation
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.errors import DatasetError, RefusedInput

_CACHED_BATCHES = 16


class RowReader:
    """Rows 0 … n−1 of all committed units, in the order of units and rows.

    Parts are compared with their checksums when they are opened, codes at every read. A part that does not match
    raises DatasetError when it is opened or, with `allow_damaged` if it can be parsed, when one of its rows is read.
    """

    def __init__(self, dataset: Dataset, allow_damaged: bool = False):
        self.dataset = dataset
        records = [record for record in dataset.commit_records() if record.rows]
        self._parts = [_MappedPart(dataset, record, allow_damaged) for record in records]
        self._first_rows = list(accumulate((record.rows for record in records), initial=0))

    def __len__(self) -> int:
        return self._first_rows[-1]

    def column(self, name: str) -> list:
        """Return a column of all rows as Python values; not for codes."""
        return [value for part in self._parts for value in part.table.column(name).to_pylist()]

    def shapes_THW(self) -> np.ndarray:
        """Return the size of every grid, int64 of shape (n, 3)."""
        return np.concatenate([part.shapes_THW for part in self._parts] or [np.zeros((0, 3))]).astype(np.int64)

    def codes_THW(self, row: int) -> np.ndarray:
        """Return the codes of a row, a view of the file. Raises DatasetError, naming part and key, if damaged."""
        part, index = self._find(row)
        return part.codes_THW(index)

    def check(self, row: int) -> None:
        """Raise DatasetError, naming the row, if its part does not match its checksum."""
        part, index = self._find(row)
        part.check(index)

    def is_damaged(self, row: int) -> bool:
        """Whether the part of a row does not match its checksum."""
        return self._find(row)[0].problem is not None

    def _find(self, row: int) -> tuple[_MappedPart, int]:
        index = bisect_right(self._first_rows, row) - 1
        return self._parts[index], row - self._first_rows[index]


class _MappedPart:
    """The rows of one unit, mapped into memory."""

    def __init__(self, dataset: Dataset, record: CommitRecord, allow_damaged: bool):
        self.problem = dataset.part_problem(record)
        if self.problem and not allow_damaged:
            raise DatasetError(f"{self.problem}; run `emu3 verify`")
        self.path = dataset.rows_path(record)
        try:
            self.table = pa.Table.from_batches([dataset.texts.apply(batch) for batch in dataset.batches(record)])
        except (DatasetError, pa.ArrowException, ValueError) as error:
            raise DatasetError(f"{self.path}: cannot be read: {self.problem or error}; run `emu3 verify`") from error
        if self.table.num_rows != record.rows:
            raise DatasetError(f"{self.path}: {self.table.num_rows} rows, expected {record.rows}; run `emu3 verify`")
        chunks = self.table.column("codes").chunks  # combined, they would be copied
        self._chunks = [(chunk.values.to_numpy(), chunk.offsets.to_numpy()) for chunk in chunks]
        self._first_rows = list(accumulate((len(chunk) for chunk in chunks), initial=0))
        self.shapes_THW = np.stack([self.table.column(name).to_numpy() for name in ("t", "h", "w")], axis=1)
        if self.problem:  # the sizes may be damaged too
            counts = np.concatenate([np.diff(offsets) for _, offsets in self._chunks])
            self.shapes_THW[self.shapes_THW.prod(axis=1, dtype=np.int64) != counts] = 1
        self._checksums = self.table.column("codes_crc32").to_pylist()

    def check(self, row: int) -> None:
        if self.problem:
            raise DatasetError(f"{self.path}: row {self._key(row)!r}: its part is damaged; run `emu3 verify`")

    def codes_THW(self, row: int) -> np.ndarray:
        self.check(row)
        t, h, w = self.shapes_THW[row].tolist()
        index = bisect_right(self._first_rows, row) - 1
        values, offsets = self._chunks[index]
        start = offsets[row - self._first_rows[index]]
        codes = values[start : start + t * h * w]
        if zlib.crc32(codes) != self._checksums[row]:
            raise DatasetError(
                f"{self.path}: row {self._key(row)!r}: codes do not match their checksum; run `emu3 verify`"
            )
        return codes.reshape(t, h, w)

    def _key(self, row: int) -> str:
        return str(self.table.column("key")[row].as_py())


class KeyReader:
    """Rows by key. A sealed unit is found in the index of the shards, others in an index that is built here.

    A unit that was committed again since, or sealed without a checksum of the index, counts as not sealed. A part is
    compared with its checksum on construction, a shard when the first of its rows is read. Raises DatasetError if they
    do not match. It has no length, so that a reader of an empty dataset is not false.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._intact: set[int] = set()  # units whose file was compared with its checksum
        committed, shards = dataset.committed_units(), self._open_index()
        sealed = dataset.sealed_units() if shards is not None else set()
        loose = (unit for unit in committed if unit not in sealed)
        self._indexes = [shards.of_units(sealed)] if shards is not None else []
        self._indexes.append(KeyIndex.build((unit, dataset.batches(self._checked_record(unit))) for unit in loose))
        self._batch = lru_cache(_CACHED_BATCHES)(self._read_batch)

    def __iter__(self) -> Iterator[str]:
        """Yield all keys, in the order of units and rows."""
        for index in self._indexes:
            yield from index.keys()

    def row(self, key: str) -> CodeRecord:
        """Return the row of a key. Raises RefusedInput if there is none, DatasetError if it is damaged."""
        location = self._find(key)
        if location is None:
            raise RefusedInput("missing_image", f"{self.dataset.root} has no row {key!r}")
        row = self._row_batch(key, location)
        if damaged_keys(row):
            raise DatasetError(
                f"{self.dataset.root}: row {key!r}: codes do not match their checksum; run `emu3 repair`"
            )
        return next(from_record_batch(row))

    def image(self, key: str) -> np.ndarray:
        """Return the codes (H, W) of an image. Raises RefusedInput if there is no image of this key."""
        record = self.row(key)
        if record.kind != "image" or not record.has_grid:
            raise RefusedInput("missing_image", f"{self.dataset.root}: row {key!r} is not an image")
        return record.codes_THW[0]

    def clip(self, key: str) -> CodeRecord:
        """Return a row with codes (T, H, W), of a video or an image. Raises RefusedInput if there is none."""
        record = self.row(key)
        if not record.has_grid:
            raise RefusedInput("missing_image", f"{self.dataset.root}: row {key!r} has no codes")
        return record

    def is_video(self, key: str) -> bool:
        """Whether there is a row of this key and it is a video."""
        location = self._find(key)
        return location is not None and self._row_batch(key, location).column("kind")[0].as_py() == "video"

    def _open_index(self) -> KeyIndex | None:
        """Open the index of the shards, None if there is none."""
        try:
            index = self.dataset.shard_reader.index
            return KeyIndex.read(self.dataset.index, index) if index else None
        except DatasetError:
            if not self.dataset.reopen_shards():
                raise
        return self._open_index()

    def _find(self, key: str) -> RowLocation | None:
        return next((found for index in self._indexes if (found := index.find(key))), None)

    def _row_batch(self, key: str, location: RowLocation) -> pa.RecordBatch:
        """Return a batch of this row alone. Raises DatasetError if it has another key."""
        row = self._batch(location.unit, location.batch).slice(location.row, 1)
        if row.column("key").to_pylist() != [key]:
            raise DatasetError(f"{self.dataset.root}: row {key!r}: the index is damaged; run `emu3 seal`")
        return row

    def _read_batch(self, unit: int, batch: int) -> pa.RecordBatch:
        return self.dataset.texts.apply(self.dataset.batch(self._checked_record(unit), batch))

    def _checked_record(self, unit: int) -> CommitRecord:
        record = self.dataset.record(unit)
        if unit not in self._intact:
            self.dataset.check_part(record)
            self._intact.add(unit)
        return record
