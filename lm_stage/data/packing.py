"""Best-fit packing: samples of different lengths into rows of one length, none of them cut."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Indices of the samples of each row; every sample once, no row longer than `row_length`.

    Longest first, each into the fullest row that still takes it (best-fit decreasing); ties go to the lower index.
    Raises ValueError if a sample is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of a row and its number, ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > row_length:
            raise ValueError(f"sample {index} has {length} tokens, a row {row_length}")
        place = bisect_left(room, (length, -1))
        if place < len(room):
            left, row = room.pop(place)
            rows[row].append(index)
        else:
            left, row = row_length, len(rows)
            rows.append([index])
        if left > length:
            insort(room, (left - length, row))
    return rows
