"""The main function of a worker process of `local_engine`.

The process receives tasks through a pipe and sends their results back. If its parent dies, the pipe is closed: the
process then saves what it has and exits.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue

from shared.errors import Interrupted, RelayError
from shared.jobs.job import Task, Worker, WorkerContext
from shared.jobs.process_tree import signal_at_parent_death
from shared.jobs.signals import STOP_SIGNALS, StopFlag

ORPHAN_GRACE_S = 10.0  # for a process whose parent is gone to save what it has
PROGRESS_INTERVAL_S = 0.1


class WorkerState(Enum):
    """Messages to the parent about the worker itself, besides results, progress and errors."""

    READY = auto()
    EXITING = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    """A count of images or tokens that were finished since the last message about this unit."""

    unit: int
    count: int


def serve(make_worker: Callable[[WorkerContext], Worker], connection: Connection) -> None:
    """Run a worker until the job ends.

    An exception other than RelayError ends the process with a traceback, which the parent treats as a death.
    """
    channel = ParentChannel(connection)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they reach the whole process group: the parent decides
    signal_at_parent_death(signal.SIGCONT)  # a process that is suspended could not notice it
    signal.signal(signal.SIGTERM, lambda number, frame: channel.request_stop("SIGTERM"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        worker = make_worker(WorkerContext(channel.stop, channel.report_progress))
        channel.send(WorkerState.READY)
        for result in worker.work(channel.tasks()):
            channel.in_hand -= 1
            channel.flush_progress()
            channel.send(result)
    except Interrupted:
        channel.request_stop("its worker")
    except RelayError as error:
        channel.send(picklable(error))
        return
    assert channel.stop.is_set() or not channel.in_hand, "a worker may keep tasks in hand only if it was stopped"
    channel.send(WorkerState.EXITING)


def picklable(error: RelayError) -> RelayError:
    """Return an error that survives pickling: an exception with more than one argument becomes a plain RelayError."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RelayError(str(error))
    return error


class ParentChannel:
    """The worker's end of the pipe.

    A thread reads it, so that the death of the parent is noticed whatever the worker is doing.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.stop = StopFlag()
        self.in_hand = 0
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._progress: Counter[int] = Counter()
        self._flushed_s = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="parent-channel", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                self._queue.put(self.connection.recv())
        except (EOFError, OSError):
            self.request_stop("the end of its parent")
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    def request_stop(self, reason: str) -> None:
        """Set the stop flag and wake up `tasks`. Safe in a signal handler: `SimpleQueue.put` is reentrant."""
        self.stop.set(reason)
        self._queue.put(None)

    def tasks(self) -> Iterator[Task | None]:
        while not self.stop.is_set():
            try:
                task = self._queue.get(block=not self.in_hand)
            except Empty:
                yield None
                continue
            if task is None:
                return
            self.in_hand += 1
            yield task

    def report_progress(self, unit: int, count: int) -> None:
        """Count progress and send it at intervals, because every message wakes up the parent."""
        self._progress[unit] += count
        if time.monotonic() - self._flushed_s >= PROGRESS_INTERVAL_S:
            self.flush_progress()

    def flush_progress(self) -> None:
        """Send the progress counted so far. Call it before sending a result, which ends the count of its unit."""
        for unit, count in self._progress.items():
            self.send(Progress(unit, count))
        self._progress.clear()
        self._flushed_s = time.monotonic()

    def send(self, message: object) -> None:
        try:
            with self._lock:
                self.connection.send(message)
        except OSError:
            sys.exit(1)  # the parent is gone
