"""Best-fit packing: every sample once, no row too long, little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.data.packing import pack_best_fit

ROW = 100
sample_lengths = st.lists(st.integers(1, ROW), max_size=60)


def best_fit_by_search(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Apply the same rule with a plain search over all rows."""
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):  # stable: ties go to the lower index
        room = [row_length - sum(lengths[i] for i in row) for row in rows]
        fitting = [number for number, left in enumerate(room) if left >= lengths[index]]
        if fitting:
            rows[min(fitting, key=lambda number: room[number])].append(index)
        else:
            rows.append([index])
    return rows


def first_fit_rows(lengths: Sequence[int], row_length: int) -> int:
    """Return the number of rows if every sample, in order, goes into the first row with room for it."""
    room: list[int] = []
    for length in lengths:
        for number, left in enumerate(room):
            if left >= length:
                room[number] -= length
                break
        else:
            room.append(row_length - length)
    return len(room)


def mixed_lengths(count: int, seed: int) -> list[int]:
    """Return many short and some long lengths, as captions with images of several sizes have."""
    random = np.random.default_rng(seed)
    return np.clip(random.lognormal(6, 0.8, count), 8, 4096).astype(int).tolist()


@given(sample_lengths)
def test_every_sample_is_in_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    rows = pack_best_fit(lengths, ROW)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= ROW for row in rows)


@given(sample_lengths)
def test_no_two_rows_could_have_been_one(lengths: list[int]) -> None:
    used = sorted(sum(lengths[index] for index in row) for row in pack_best_fit(lengths, ROW))
    assert len(used) < 2 or used[0] + used[1] > ROW


@given(st.lists(st.integers(1, 12), max_size=30), st.integers(12, 30))
def test_rows_are_those_of_a_plain_search(lengths: list[int], row_length: int) -> None:
    assert pack_best_fit(lengths, row_length) == best_fit_by_search(lengths, row_length)


def test_rows_by_hand() -> None:
    assert pack_best_fit([3, 7, 5, 5, 2], 10) == [[1, 0], [2, 3], [4]]
    assert pack_best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert pack_best_fit([10, 10], 10) == [[0], [1]]
    assert pack_best_fit([], 10) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("row_length", [4096, 5000, 8192])
def test_no_more_rows_than_first_fit_and_little_padding(seed: int, row_length: int) -> None:
    lengths = mixed_lengths(1500, seed)
    rows = pack_best_fit(lengths, row_length)
    assert len(rows) <= first_fit_rows(lengths, row_length)
    assert len(rows) <= -(-sum(lengths) // row_length) + 1, "one row more than tokens alone need, at most"
    assert pack_best_fit(lengths, row_length) == rows


@pytest.mark.parametrize("lengths", [[11], [3, 11, 4], [10, 10, 99]])
def test_a_sample_longer_than_a_row_is_named(lengths: list[int]) -> None:
    longest = lengths.index(max(lengths))
    with pytest.raises(ValueError, match=f"sample {longest} has {max(lengths)} tokens, a row 10"):
        pack_best_fit(lengths, 10)


def test_a_hundred_thousand_samples_fill_their_rows() -> None:
    lengths = mixed_lengths(100_000, 0)
    assert sum(lengths) / (len(pack_best_fit(lengths, 4096)) * 4096) > 0.99
