"""Rows of a dataset by number, for readers that want millions of them: memory-mapped columns, nothing parsed twice.

Shape suffixes: T frames, H W grid.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import pyarrow as pa

from shared.dataset.dataset import CommitRecord, Dataset
from shared.errors import DatasetError


class RowReader:
    """Rows 0 … n−1 of all committed units, in the order of units and rows.

    Parts are compared with their checksums when they are opened, codes with theirs at every read. A part that does not
    match raises DatasetError when it is opened; if `keeps_damaged`, and it can be read at all, when its rows are.
    """

    def __init__(self, dataset: Dataset, keeps_damaged: bool = False):
        self.dataset = dataset
        self.parts: list[Part] = []
        self._starts: list[int] = []
        rows = 0
        for record in dataset.commit_records():
            if record.rows:
                self.parts.append(Part(dataset, record, keeps_damaged))
                self._starts.append(rows)
                rows += record.rows
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str) -> list:
        """A column of all rows as Python values; not for codes."""
        return [value for part in self.parts for value in part.table.column(name).to_pylist()]

    def shapes_THW(self) -> np.ndarray:
        """int64 (n, 3): the size of every grid."""
        return np.concatenate([part.shapes_THW for part in self.parts] or [np.zeros((0, 3))]).astype(np.int64)

    def codes_THW(self, row: int) -> np.ndarray:
        """uint16 codes, a view of the file. Raises DatasetError naming part and key if they are damaged."""
        part, number = self._find(row)
        return part.codes_THW(number)

    def check(self, row: int) -> None:
        """Raises DatasetError, naming the row, if its part does not match its checksum."""
        part, number = self._find(row)
        part.check(number)

    def is_damaged(self, row: int) -> bool:
        """Whether its part does not match its checksum."""
        return self._find(row)[0].problem is not None

    def _find(self, row: int) -> tuple[Part, int]:
        index = bisect_right(self._starts, row) - 1
        return self.parts[index], row - self._starts[index]


class Part:
    """One committed part, mapped into memory."""

    def __init__(self, dataset: Dataset, record: CommitRecord, keeps_damaged: bool):
        self.problem = dataset.part_problem(record)
        if self.problem and not keeps_damaged:
            raise DatasetError(f"{self.problem}; run `emu3 verify`")
        self.path = dataset.place(record)
        try:
            self.table = pa.Table.from_batches(list(dataset.batches(record)))
            if self.problem:
                self.table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(f"{self.path}: cannot be read: {self.problem or error}; run `emu3 verify`") from error
        chunks = self.table.column("codes").chunks  # combined they would be copied
        self._chunks = [(chunk.values.to_numpy(), chunk.offsets.to_numpy()) for chunk in chunks]
        self._starts = list(accumulate((len(chunk) for chunk in chunks), initial=0))
        self.shapes_THW = np.stack([self.table.column(name).to_numpy() for name in ("t", "h", "w")], axis=1)
        if self.problem:  # sizes may be any
            counts = np.concatenate([np.diff(offsets) for _, offsets in self._chunks])
            self.shapes_THW[self.shapes_THW.prod(axis=1, dtype=np.int64) != counts] = 1
        self._checksums = self.table.column("codes_crc32").to_pylist()

    def check(self, row: int) -> None:
        if self.problem:
            key = self.table.column("key")[row].as_py()
            raise DatasetError(f"{self.path}: row {key!r}: its part is damaged; run `emu3 verify`")

    def codes_THW(self, row: int) -> np.ndarray:
        self.check(row)
        shape = self.shapes_THW[row].tolist()
        index = bisect_right(self._starts, row) - 1
        values, begins = self._chunks[index]
        begin = begins[row - self._starts[index]]
        codes = values[begin : begin + shape[0] * shape[1] * shape[2]]
        if zlib.crc32(codes) != self._checksums[row]:
            key = self.table.column("key")[row].as_py()
            raise DatasetError(f"{self.path}: row {key!r}: codes do not match their checksum; run `emu3 verify`")
        return codes.reshape(shape)
