"""Work done ahead of its consumer: order, bound, errors, and sources that have no item for the moment."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Interrupted, JobStoppedError
from shared.jobs import prefetch
from shared.jobs.prefetch import TimeLimit, prefetch_map
from shared.jobs.signals import StopFlag


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


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """An event that blocked threads wait for; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_an_item_that_takes_too_long_is_given_up_and_its_thread_replaced(gate: threading.Event) -> None:
    def work(item: int) -> str:
        if item in (1, 2):
            gate.wait()
        return f"read {item}"

    results = prefetch_map(work, range(5), 2, 8, limit=TimeLimit(0.2, lambda item: f"timeout {item}"))
    assert list(results) == ["read 0", "timeout 1", "timeout 2", "read 3", "read 4"]


def test_a_thread_that_was_given_up_ends_when_its_read_returns(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = set(threading.enumerate())
    results = prefetch_map(lambda item: item or gate.wait(), range(4), 1, 8, limit=TimeLimit(0.1, lambda item: -1))
    assert next(results) == -1
    threads = set(threading.enumerate()) - earlier
    assert len(threads) == 2
    gate.set()
    assert list(results) == [1, 2, 3]
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_slow_items_before_the_deadline_are_waited_for() -> None:
    threads = threading.Barrier(2)

    def work(item: int) -> int:
        threads.wait(timeout=30)
        return item

    assert list(prefetch_map(work, range(4), 2, 8, limit=TimeLimit(60, lambda item: -1))) == [0, 1, 2, 3]


def test_too_many_blocked_threads_stop_the_job(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_BLOCKED", 3)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.1)
    results = prefetch_map(lambda item: gate.wait(), range(9), 2, 8, limit=TimeLimit(0.1, lambda item: False))
    assert [next(results), next(results)] == [False, False]
    with pytest.raises(JobStoppedError, match="3 reads do not return"):
        next(results)


def test_a_signal_interrupts_the_wait_for_a_blocked_thread(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "STOP_S", 0.1)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.1)
    stop = StopFlag()
    results = prefetch_map(lambda item: item if item < 2 else gate.wait(), range(5), 2, 8, stop)
    assert next(results) == 0
    stop.set("SIGTERM")
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        list(results)


def test_blocked_threads_do_not_keep_the_process_alive() -> None:
    script = (
        "import os; from shared.jobs.prefetch import TimeLimit, prefetch_map; r, w = os.pipe();"
        "print(next(prefetch_map(lambda n: os.read(r, 1) if n else 'first', range(3), 2, 8)), flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "first\n"
