"""SIGINT and SIGTERM as a flag that a job looks at between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Interrupted


class StopFlag:
    """Set by the first signal; a second SIGINT falls through to Python and stops at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal_name = ""

    def set(self, signal_name: str) -> None:
        self.signal_name = signal_name
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def raise_if_set(self, done: str) -> None:
        """Raises Interrupted once a signal has come; `done` says what is safe on disk."""
        if self._event.is_set():
            raise Interrupted(f"stopped by {self.signal_name}: {done}; the same command resumes")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Turns SIGINT and SIGTERM into a flag inside the block; restores the handlers afterwards."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: object) -> None:
        if flag.is_set():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        flag.set(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
