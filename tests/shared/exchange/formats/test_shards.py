"""How many rows go into one shard."""

from __future__ import annotations

from shared.exchange.formats.shards import group_by_size, max_row_bytes
from tests.support.small_datasets import (
    image,
)


def test_groups_fill_files_without_passing_their_size() -> None:
    rows = [image(index, str(index)) for index in range(7)]
    size_bytes = max_row_bytes(rows[0])
    assert [len(group) for group in group_by_size(rows, 3 * size_bytes)] == [3, 3, 1]
    assert [len(group) for group in group_by_size(rows, 1)] == [1] * 7
    assert list(group_by_size([], 100)) == []
