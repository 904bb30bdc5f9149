"""A reader of Megatron's indexed datasets, written from the description of the format alone."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f8", 7: "<f4", 8: "<u2"}


def read_documents(prefix: Path) -> list[np.ndarray]:
    """Return the elements of every document of `PREFIX.bin` and `PREFIX.idx`."""
    index, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    parts, begin = [], 34
    for count, dtype in ((sequences, "<i4"), (sequences, "<i8"), (boundaries, "<i8")):
        parts.append(np.frombuffer(index, dtype, count, begin))
        begin += parts[-1].nbytes
    assert begin == len(index)
    lengths, offsets, first_sequences = parts
    assert (first_sequences[0], first_sequences[-1]) == (0, sequences)
    elements = [np.frombuffer(data, TYPES[code], length, offset) for length, offset in zip(lengths, offsets)]
    assert sum(one.nbytes for one in elements) == len(data)
    return [np.concatenate(elements[begin:end]) for begin, end in pairwise(first_sequences)]
