"""Work done ahead of its consumer by a pool of threads, in order and within a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, overload

T = TypeVar("T")
R = TypeVar("R")


@overload
def prefetch_map(
    function: Callable[[T], R], items: Iterable[T], threads: int, max_pending: int
) -> Generator[R, None, None]: ...
@overload
def prefetch_map(
    function: Callable[[T], R], items: Iterable[T | None], threads: int, max_pending: int
) -> Generator[R | None, None, None]: ...
def prefetch_map(
    function: Callable[[Any], Any], items: Iterable[Any], threads: int, max_pending: int
) -> Generator[Any, None, None]:
    """Apply a function in a pool of threads, at most `max_pending` items ahead of the result being consumed.

    Results keep the order of the items, and an exception is raised in place of its result. (`Executor.map` would read
    all of `items` at once.) An item of None means that no item is available at the moment: pending results are
    yielded first, then None itself.
    """
    source, pending = iter(items), deque[Future[Any]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:

        def fill() -> bool:
            """Submit available items until `max_pending` are pending. Return whether the source is exhausted."""
            while len(pending) < max_pending:
                try:
                    item = next(source)
                except StopIteration:
                    return True
                if item is None:
                    return False
                pending.append(pool.submit(function, item))
            return False

        try:
            is_at_end = fill()
            while pending or not is_at_end:
                ready = [pending.popleft().result()] if pending else []
                is_at_end = is_at_end or fill()
                if ready:
                    yield ready[0]
                elif not pending and not is_at_end:
                    yield None
        finally:
            for future in pending:
                future.cancel()
