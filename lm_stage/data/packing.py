"""Best-fit packing: samples of different lengths into rows of one length, without cutting any."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Return the sample indices of each row: every sample once, no row longer than `row_length` tokens.

    Best-fit decreasing: the longest sample first, each into the fullest row that has room for it; ties go to the
    lower index. Raises ValueError if a sample is longer than a row.
    """
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free tokens, row index), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > row_length:
            raise ValueError(f"sample {index} has {length} tokens, a row {row_length}")
        fullest = bisect_left(open_rows, (length, -1))
        if fullest < len(open_rows):
            free, row = open_rows.pop(fullest)
            rows[row].append(index)
        else:
            free, row = row_length, len(rows)
            rows.append([index])
        if free > length:
            insort(open_rows, (free - length, row))
    return rows
