"""Signals that ask a job to stop, as a flag that the job checks between batches.

The first SIGINT, SIGTERM or SIGHUP sets the flag: the job saves what it has and ends. A second Ctrl-C raises
KeyboardInterrupt, and a third ends the process and its children at once. Schedulers repeat SIGTERM and SIGHUP, so
these have no effect the second time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shared.errors import Interrupted
from shared.jobs.process_tree import kill_descendants

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTS_TO_KILL = 3


class StopFlag:
    """A request to stop, with the name of the first signal that made it.

    It needs no lock, so that it is safe in signal handlers.
    """

    def __init__(self) -> None:
        self.signal_name = ""

    def set(self, signal_name: str) -> None:
        self.signal_name = self.signal_name or signal_name

    def is_set(self) -> bool:
        return bool(self.signal_name)

    def raise_if_set(self, saved: str) -> None:
        """Raise Interrupted after a signal; `saved` describes what is safe on disk."""
        if self.signal_name:
            raise Interrupted(f"stopped by {self.signal_name}: {saved}; the same command resumes")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Set a flag on the signals that ask a job to stop inside the block; restore the previous handlers afterwards."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    watch = _SignalWatch(flag)
    watched = set(STOP_SIGNALS)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
        watched.remove(signal.SIGHUP)
    previous = {number: signal.signal(number, watch.handle) for number in watched}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        watch.close()


class _SignalWatch:
    """Counts signals in a thread, which receives them even while the main thread is inside a library.

    Python runs signal handlers in the main thread alone, and not before a call of a library returns.
    """

    def __init__(self, flag: StopFlag):
        self.flag = flag
        self._terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream and stream.isatty()]
        self._interrupts = self._handled_interrupts = 0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._writer)
        self._thread.join()
        os.close(self._reader)

    def handle(self, number: int, frame: object) -> None:
        """Handle a signal in the main thread. Raises KeyboardInterrupt at a second SIGINT."""
        self.flag.set(signal.Signals(number).name)
        self._handled_interrupts += number == signal.SIGINT
        if number == signal.SIGINT and max(self._interrupts, self._handled_interrupts) > 1:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while number := os.read(self._reader, 1):
            if number[0] not in STOP_SIGNALS:
                continue
            self.flag.set(signal.Signals(number[0]).name)
            self._leave_closed_terminals()
            self._interrupts += number[0] == signal.SIGINT
            if self._interrupts >= INTERRUPTS_TO_KILL:
                kill_descendants()
                os._exit(Interrupted.exit_code)

    def _leave_closed_terminals(self) -> None:
        """Discard what is printed to a terminal that was closed: every write would raise OSError."""
        for descriptor in self._terminals:
            if not os.isatty(descriptor):
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
