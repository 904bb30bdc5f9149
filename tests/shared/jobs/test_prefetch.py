"""Work done ahead of its consumer, from a source that has nothing for now."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from shared.jobs.prefetch import prefetch_map


def test_what_is_pending_is_given_out_before_the_source_is_asked_again() -> None:
    """The source has two items, then none until both were consumed."""
    consumed: list[int | None] = []

    def source() -> Iterator[int | None]:
        yield from (1, 2)
        while consumed != [10, 20]:
            assert len(consumed) <= 2, "asked again and again without a None given out"
            yield None
        yield 3

    for result in prefetch_map(lambda item: item * 10, source(), threads=2, max_pending=8):
        if result is not None:
            consumed.append(result)
    assert consumed == [10, 20, 30]


def test_none_is_given_out_while_nothing_is_pending() -> None:
    """It is asked twice before that: once for the result behind the one due, once more when there is none."""
    assert list(prefetch_map(str, iter([None, None, None, 1]), threads=1, max_pending=4)) == [None, None, "1"]


@given(items=st.lists(st.none() | st.integers()), max_pending=st.integers(1, 5))
def test_every_item_is_mapped_once_and_in_order(items: list[int | None], max_pending: int) -> None:
    results = list(prefetch_map(lambda item: item + 1, iter(items), threads=2, max_pending=max_pending))
    assert [result for result in results if result is not None] == [item + 1 for item in items if item is not None]
    assert results.count(None) <= items.count(None)
