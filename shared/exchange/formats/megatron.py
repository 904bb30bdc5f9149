"""Sequences as Megatron reads them: the elements in a `.bin` file, where each sequence is in an `.idx` file.

An `.idx` file is little-endian and has, in this order:

    9 bytes       MMIDIDX, two zero bytes
    uint64        the version, 1
    uint8         the type of the elements: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16
    uint64        n, the number of sequences
    uint64        d + 1, where d is the number of documents
    int32[n]      the elements of each sequence
    int64[n]      the offset of each sequence in the `.bin` file, in bytes
    int64[d + 1]  the index of the first sequence of each document, and n

Here every document is one sequence.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

import numpy as np

_HEADER = b"MMIDIDX\0\0"
_TYPE_CODES = {"uint8": 1, "int32": 4, "float32": 7, "uint16": 8}
_ROWS_PER_BLOCK = 1 << 20  # of the index, written at a time
MAX_SMALL_VOCABULARY = 65499  # Megatron stores ids below 65500 as uint16


def token_dtype(vocabulary_size: int) -> str:
    """Return the type that Megatron itself chooses for a vocabulary."""
    return "uint16" if vocabulary_size <= MAX_SMALL_VOCABULARY else "int32"


class MegatronWriter:
    """Writes `PREFIX.bin` as sequences arrive and `PREFIX.idx` when it is closed; memory holds 4 bytes a sequence."""

    def __init__(self, prefix: Path, dtype: str):
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._code = _TYPE_CODES[dtype]
        self._index = prefix.with_name(f"{prefix.name}.idx")
        self._lengths = array("i")
        self._file = prefix.with_name(f"{prefix.name}.bin").open("xb")

    def add(self, elements: np.ndarray) -> None:
        """Append a document of one sequence."""
        self._file.write(elements.astype(self._dtype).tobytes())
        self._lengths.append(len(elements))

    def close(self, *, is_complete: bool) -> None:
        """Close the data and, if all documents were added, write the index."""
        self._file.close()
        if is_complete:
            self._write_index()

    def _write_index(self) -> None:
        count = len(self._lengths)
        with self._index.open("xb") as file:
            file.write(_HEADER + struct.pack("<QBQQ", 1, self._code, count, count + 1))
            offset, size = 0, self._dtype.itemsize
            file.write(np.frombuffer(self._lengths, np.int32).astype("<i4").tobytes())
            for begin in range(0, count, _ROWS_PER_BLOCK):
                lengths = np.array(self._lengths[begin : begin + _ROWS_PER_BLOCK], np.int64)
                ends = offset + np.cumsum(lengths) * size
                file.write((ends - lengths * size).astype("<i8").tobytes())
                offset = int(ends[-1])
            for begin in range(0, count + 1, _ROWS_PER_BLOCK):
                file.write(np.arange(begin, min(begin + _ROWS_PER_BLOCK, count + 1), dtype="<i8").tobytes())
