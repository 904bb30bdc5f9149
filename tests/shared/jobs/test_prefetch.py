"""Work done ahead of its consumer: order, bound, errors, and sources that have no item for the moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs.prefetch import prefetch_map


def test_results_keep_their_order_and_the_bound() -> None:
    started: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item * item

    results = prefetch_map(work, iter(range(100)), threads=3, max_pending=5)
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    assert max(started) <= 10 + 5
    assert list(results) == [n * n for n in range(10, 100)]


def test_an_exception_is_raised_in_place_of_its_result() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = prefetch_map(work, range(5), threads=2, max_pending=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_pending_results_are_yielded_before_the_source_is_asked_again() -> None:
    """The source has two items, then None until both have been consumed."""
    consumed: list[int | None] = []

    def source() -> Iterator[int | None]:
        yield from (1, 2)
        while consumed != [10, 20]:
            assert len(consumed) <= 2, "the source was asked again and again without a None being yielded"
            yield None
        yield 3

    for result in prefetch_map(lambda item: item * 10, source(), threads=2, max_pending=8):
        if result is not None:
            consumed.append(result)
    assert consumed == [10, 20, 30]


def test_none_is_yielded_while_nothing_is_pending() -> None:
    """The source is asked twice first: once to fill the queue, once more when the queue is empty."""
    assert list(prefetch_map(str, iter([None, None, None, 1]), threads=1, max_pending=4)) == [None, None, "1"]


@given(items=st.lists(st.none() | st.integers()), max_pending=st.integers(1, 5))
def test_every_item_is_mapped_once_and_in_order(items: list[int | None], max_pending: int) -> None:
    results = list(prefetch_map(lambda item: item + 1, iter(items), threads=2, max_pending=max_pending))
    assert [result for result in results if result is not None] == [item + 1 for item in items if item is not None]
    assert results.count(None) <= items.count(None)
