"""The side of a job that hands out its work: what is the same for processes of this machine and actors of a cluster."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter

from shared.errors import RelayError
from shared.jobs.job import Job
from shared.jobs.scheduler import Dispatcher

TICK_S = 0.2  # how long a signal may go unnoticed
RETRY_ELSEWHERE_S = 5.0
LONGEST_PAUSE_S = 8.0


class Starts:
    """When each worker is to start: at once, after a death after `pause_s`, doubled with each death in a row."""

    def __init__(self, workers: int, pause_s: float):
        self._pause_s = pause_s
        self._due_s = dict.fromkeys(range(workers), 0.0)
        self._deaths_in_a_row: Counter[int] = Counter()

    def due(self) -> list[int]:
        """Workers to be started now; each is named once."""
        now_s = time.monotonic()
        numbers = [number for number, due_s in self._due_s.items() if due_s <= now_s]
        for number in numbers:
            del self._due_s[number]
        return numbers

    def has_worked(self, number: int) -> None:
        self._deaths_in_a_row[number] = 0

    def again(self, number: int) -> None:
        self._due_s[number] = time.monotonic()

    def after_death(self, number: int) -> None:
        pause_s = self._pause_s * 2.0 ** self._deaths_in_a_row[number]
        self._deaths_in_a_row[number] += 1
        self._due_s[number] = time.monotonic() + min(LONGEST_PAUSE_S, pause_s)


class Fleet(ABC):
    """Workers under one dispatcher: started, fed and heard until the job is done, stopped or has failed.

    A worker that dies is started again after `pause_s`, doubled with each death in a row. When the job stops, workers
    have `grace_s` to keep what they have.
    """

    def __init__(self, job: Job, workers: int, pause_s: float, grace_s: float):
        self.job = job
        self.dispatcher = Dispatcher(job)
        self.grace_s = grace_s
        self.starts = Starts(min(workers, len(job.units) + len(job.to_steal)), pause_s)
        self.error: RelayError | None = None
        self._retry_at_s = time.monotonic() + RETRY_ELSEWHERE_S

    def run(self) -> None:
        """Raises the first RelayError of a worker, JobStoppedError for workers that die without a single input to
        blame, and Interrupted after a signal."""
        try:
            while not (self.dispatcher.is_finished or self.job.stop.is_set() or self.error):
                for number in self.starts.due():
                    self.start(number)
                self._retry_elsewhere()
                self.feed()
                self.listen()
            self.end()
        finally:
            self.kill_all()
        if self.error:
            raise self.error
        raise_if_stopped(self.job, self.dispatcher)

    def _retry_elsewhere(self) -> None:
        if self.dispatcher.waits_for_others and time.monotonic() >= self._retry_at_s:
            self.dispatcher.retry_elsewhere()
            self._retry_at_s = time.monotonic() + RETRY_ELSEWHERE_S

    def has_died(self, number: int) -> None:
        """Tells the dispatcher, and when to start another in its place."""
        self.starts.after_death(number)
        try:
            self.dispatcher.died(number)
        except RelayError as error:
            self.error = error

    @abstractmethod
    def start(self, number: int) -> None:
        """Starts the worker of this number."""

    @abstractmethod
    def feed(self) -> None:
        """Gives tasks to workers that can take some."""

    @abstractmethod
    def listen(self) -> None:
        """Waits a tick at most, hears what workers say, and notes those that have died."""

    @abstractmethod
    def end(self) -> None:
        """Ends all workers in good order, at once if something is left to do, and hears them out."""

    @abstractmethod
    def kill_all(self) -> None:
        """Ends those that are left."""


def raise_if_stopped(job: Job, dispatcher: Dispatcher) -> None:
    """Raises Interrupted if a signal has ended the run of a job before its units were all committed."""
    if not dispatcher.is_finished:
        job.stop.raise_if_set(f"{dispatcher.committed} units committed, what was done of the next ones kept")
