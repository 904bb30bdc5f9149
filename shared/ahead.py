"""Work done ahead of its consumer by a pool of threads, in order and within a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Generator[R, None, None]:
    """`map` by `workers` threads, at most `ahead` results before the one being consumed.

    Results keep the order of items; an exception surfaces where its result would have.
    (`Executor.map` would read all of `items` at once.)
    """
    source = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        pending: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(source, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
