"""Work done ahead of its consumer by a pool of threads, in order and within a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, overload

T = TypeVar("T")
R = TypeVar("R")


@overload
def map_ahead(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Generator[R, None, None]: ...
@overload
def map_ahead(
    function: Callable[[T], R], items: Iterable[T | None], workers: int, ahead: int
) -> Generator[R | None, None, None]: ...
def map_ahead(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, ahead: int
) -> Generator[Any, None, None]:
    """`map` by `workers` threads, at most `ahead` results before the one being consumed.

    Results keep the order of items; an exception surfaces where its result would have.
    (`Executor.map` would read all of `items` at once.) An item of None says that there is none for now: what is
    pending is given out meanwhile, and None itself once nothing is.
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        pending: deque[Future[Any]] = deque()
        try:
            is_at_end = _fill(pending, source, lambda item: pool.submit(function, item), ahead)
            while pending or not is_at_end:
                ready = [pending.popleft().result()] if pending else []
                is_at_end = is_at_end or _fill(pending, source, lambda item: pool.submit(function, item), ahead)
                if ready:
                    yield ready[0]
                elif not pending and not is_at_end:
                    yield None
        finally:
            for future in pending:
                future.cancel()


def _fill(pending: deque[Future[Any]], source: Iterator[Any], submit: Callable[[Any], Future[Any]], ahead: int) -> bool:
    """Tops up what is pending, as far as the source has something now. Returns whether the source has ended."""
    while len(pending) < ahead:
        try:
            item = next(source)
        except StopIteration:
            return True
        if item is None:
            return False
        pending.append(submit(item))
    return False
