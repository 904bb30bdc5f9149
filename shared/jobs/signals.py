"""SIGINT and SIGTERM as a flag that a job checks between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Interrupted


class StopFlag:
    """A request to stop, with the name of the signal that made it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal_name = ""

    def set(self, signal_name: str) -> None:
        self.signal_name = signal_name
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def raise_if_set(self, saved: str) -> None:
        """Raise Interrupted after a signal; `saved` describes what is safe on disk."""
        if self._event.is_set():
            raise Interrupted(f"stopped by {self.signal_name}: {saved}; the same command resumes")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Set a flag on SIGINT and SIGTERM inside the block; restore the previous handlers afterwards.

    After the first signal, SIGINT raises KeyboardInterrupt again, so that a second Ctrl-C stops at once.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: object) -> None:
        if flag.is_set():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        flag.set(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
