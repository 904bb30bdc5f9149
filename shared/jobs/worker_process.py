"""A worker process of `local_engine`, from its first line to its last.

It takes tasks from a pipe and tells over it what came of them. One whose parent is gone notices the end of the pipe,
keeps what it has and ends.
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
from shared.jobs.job import Host, Task, Worker
from shared.jobs.signals import StopFlag

ORPHAN_GRACE_S = 10.0  # for a child to keep what it has once its parent is gone
PROGRESS_S = 0.1
STOPS = {signal.SIGINT, signal.SIGTERM}


class Note(Enum):
    """What a child says beside Dones, progress and errors."""

    READY = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Progress:
    unit: int
    count: int


def serve(make_worker: Callable[[Host], Worker], connection: Connection) -> None:
    """A child's whole life. Exceptions other than RelayError end it with a traceback: to the parent a death."""
    desk = Desk(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    signal.signal(signal.SIGTERM, lambda number, frame: desk.stop_for("SIGTERM"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        worker = make_worker(Host(desk.stop, desk.progress))
        desk.send(Note.READY)
        for done in worker.work(desk.tasks()):
            desk.in_hand -= 1
            desk.tell_progress()
            desk.send(done)
    except Interrupted:
        desk.stop_for("its worker")
    except RelayError as error:
        desk.send(portable(error))
        return
    assert desk.stop.is_set() or not desk.in_hand, "a worker returns with tasks in hand only once it is to stop"
    desk.send(Note.ENDED)


def portable(error: RelayError) -> RelayError:
    """Exceptions travel as their class and one text; one that is made of more becomes a plain one."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError):
        return RelayError(str(error))
    return error


class Desk:
    """The child's side of the pipe, read by a thread so that the end of the parent is noticed in any case."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.stop = StopFlag()
        self.in_hand = 0
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._progress: Counter[int] = Counter()
        self._told_s = 0.0
        self._lock = threading.Lock()
        threading.Thread(target=self._read, name="desk", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                self._queue.put(self.connection.recv())
        except (EOFError, OSError):
            self.stop_for("the end of its parent")
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    def stop_for(self, reason: str) -> None:
        """Also from a signal handler: a SimpleQueue may be interrupted by its own `put`."""
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

    def progress(self, unit: int, count: int) -> None:
        """Tells the parent, at most once in `PROGRESS_S`: it is woken by every message."""
        self._progress[unit] += count
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self.tell_progress()

    def tell_progress(self) -> None:
        """To be called before a Done is sent, which ends the count of its unit."""
        for unit, count in self._progress.items():
            self.send(Progress(unit, count))
        self._progress.clear()
        self._told_s = time.monotonic()

    def send(self, message: object) -> None:
        try:
            with self._lock:
                self.connection.send(message)
        except OSError:
            sys.exit(1)  # nobody listens any more
