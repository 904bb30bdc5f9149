"""Work done ahead of its consumer by a pool of threads, in order and within a bound.

A thread that is blocked, for example in a read from a network disk that no longer responds, does not hold up the
others: the consumer may give its item up after a while, and the process can exit without waiting for its threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, overload

from shared.errors import JobStoppedError
from shared.jobs.signals import StopFlag

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.1
STOP_S = 2.0  # for an item in hand after a signal
CLOSE_S = 3.0  # for the items in hand when the consumer stops; longer ones are left behind
MAX_BLOCKED = 32  # threads


@dataclass(frozen=True, slots=True)
class TimeLimit(Generic[T, R]):
    """How long a consumer waits for an item, in seconds, and what it gets in place of the result after that."""

    seconds: float
    give_up: Callable[[T], R]


@overload
def prefetch_map(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    max_pending: int,
    stop: StopFlag | None = None,
    limit: TimeLimit[T, R] | None = None,
) -> Generator[R, None, None]: ...
@overload
def prefetch_map(
    function: Callable[[T], R],
    items: Iterable[T | None],
    threads: int,
    max_pending: int,
    stop: StopFlag | None = None,
    limit: TimeLimit[T, R] | None = None,
) -> Generator[R | None, None, None]: ...
def prefetch_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    threads: int,
    max_pending: int,
    stop: StopFlag | None = None,
    limit: TimeLimit[Any, Any] | None = None,
) -> Generator[Any, None, None]:
    """Apply a function in a pool of threads, at most `max_pending` items ahead of the result being consumed.

    Results keep the order of the items, and an exception is raised in place of its result. (`Executor.map` would read
    all of `items` at once.) An item of None means that no item is available at the moment: pending results are
    yielded first, then None itself.

    An item that takes longer than `limit` is given up, and another thread replaces the blocked one. Raises
    JobStoppedError once `MAX_BLOCKED` threads are blocked at the same time. Raises Interrupted if `stop` is set and
    the next result does not come soon; a consumer that wants to save its work can catch that.
    """
    pool = _DaemonThreads(function, threads)
    queue = _Queue(items, max_pending, pool)
    try:
        queue.fill()
        while queue.pending or not queue.is_at_end:
            ready = [pool.result(queue.pending.popleft(), stop, limit)] if queue.pending else []
            queue.fill()
            if ready:
                yield ready[0]
            elif not queue.pending and not queue.is_at_end:
                yield None
    finally:
        pool.close(queue.pending)


class _Queue:
    """The items in hand, at most `max_pending`; `is_at_end` is true once there are no more to come."""

    def __init__(self, items: Iterable[Any], max_pending: int, pool: _DaemonThreads):
        self.pending: deque[_Item] = deque()
        self.is_at_end = False
        self._items, self._max_pending, self._pool = iter(items), max_pending, pool

    def fill(self) -> None:
        """Submit available items."""
        while not self.is_at_end and len(self.pending) < self._max_pending:
            try:
                item = next(self._items)
            except StopIteration:
                self.is_at_end = True
                return
            if item is None:
                return
            self.pending.append(self._pool.submit(item))


class _Item:
    """An item and, once it `is_done`, the result or the error of the function; half the cost of a `Future`.

    Every flag is set by one thread only: the worker sets `is_done` before it looks for `waiter`, and the consumer sets
    `waiter` before it looks at `is_done`.
    """

    __slots__ = ("error", "is_cancelled", "is_done", "result", "value", "waiter")

    def __init__(self, value: Any):
        self.value = value
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = self.is_cancelled = False
        self.waiter: threading.Event | None = None

    def finish(self, function: Callable[[Any], Any]) -> None:
        """Apply the function; called by a worker."""
        try:
            self.result = function(self.value)
        except BaseException as error:
            self.error = error
        self.is_done = True
        if self.waiter is not None:
            self.waiter.set()

    def is_done_within(self, timeout_s: float, stop: StopFlag | None) -> bool:
        """Wait for the result. Raises Interrupted if `stop` is set and it does not come soon.

        Only time spent in this loop counts: a process that was suspended has not waited.
        """
        if self.is_done:
            return True
        self.waiter = threading.Event()
        waited_s = stopped_s = 0.0
        while not self.is_done:
            if stop is not None and stopped_s >= STOP_S:
                stop.raise_if_set("finished work is kept")
            if waited_s >= timeout_s:
                return False
            began_s = time.monotonic()
            self.waiter.wait(POLL_S)
            polled_s = min(time.monotonic() - began_s, 2 * POLL_S)
            waited_s += polled_s
            stopped_s += polled_s if stop is not None and stop.is_set() else 0.0
        return True


class _DaemonThreads:
    """Threads that apply a function to items, oldest first; the interpreter exits without waiting for them."""

    def __init__(self, function: Callable[[Any], Any], threads: int):
        self._function = function
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._blocked: list[_Item] = []
        self._threads: list[threading.Thread] = []
        for _ in range(threads):
            self._start()

    def _start(self) -> None:
        self._threads.append(threading.Thread(target=self._run, name="prefetch", daemon=True))
        self._threads[-1].start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if not item.is_cancelled:
                item.finish(self._function)
            del item  # a thread that waits must not keep the last result alive

    def submit(self, value: Any) -> _Item:
        item = _Item(value)
        self._queue.put(item)
        return item

    def result(self, item: _Item, stop: StopFlag | None, limit: TimeLimit[Any, Any] | None) -> Any:
        """Wait for the result of an item, or give the item up."""
        if item.is_done_within(limit.seconds if limit else math.inf, stop):
            if item.error is not None:
                raise item.error
            return item.result
        assert limit is not None, "without it there is no limit"
        self._replace_blocked(item)
        return limit.give_up(item.value)

    def _replace_blocked(self, item: _Item) -> None:
        """Start a thread in place of the one that an item blocks. Raises JobStoppedError if too many are blocked."""
        self._blocked = [*(blocked for blocked in self._blocked if not blocked.is_done), item]
        if len(self._blocked) >= MAX_BLOCKED:
            raise JobStoppedError(
                f"{len(self._blocked)} reads do not return: the disk, mount or store of the source does not respond;"
                " check it and run the same command"
            )
        self._start()

    def close(self, pending: Iterable[_Item]) -> None:
        """Cancel what has not started, let the rest finish for a moment, and end the threads.

        A daemon thread that is still running while the interpreter and its libraries shut down can crash the process.
        """
        for item in pending:
            item.is_cancelled = True
        for _ in self._threads:
            self._queue.put(None)
        deadline_s = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
