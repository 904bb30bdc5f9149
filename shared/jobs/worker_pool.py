"""The part of an engine that is the same for processes of this machine and for actors of a cluster."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import Counter

from shared.errors import RelayError
from shared.jobs.job import Job, TaskResult
from shared.jobs.scheduler import Scheduler
from shared.jobs.watchdog import Watchdog

POLL_S = 0.2  # the longest time that a signal can go unnoticed
RETRY_HELD_ELSEWHERE_S = 5.0
MAX_BACKOFF_S = 8.0


class StartTimes:
    """When to start each worker: at once, or after a death with exponential backoff.

    The first pause is `backoff_s`; it doubles with each death in a row.
    """

    def __init__(self, workers: int, backoff_s: float):
        self._backoff_s = backoff_s
        self._due_s = dict.fromkeys(range(workers), 0.0)
        self._consecutive_deaths: Counter[int] = Counter()

    def pop_due(self) -> list[int]:
        """Return the workers to start now; each is returned once."""
        now_s = time.monotonic()
        workers = [worker for worker, due_s in self._due_s.items() if due_s <= now_s]
        for worker in workers:
            del self._due_s[worker]
        return workers

    def reset_backoff(self, worker: int) -> None:
        self._consecutive_deaths[worker] = 0

    def start_now(self, worker: int) -> None:
        self._due_s[worker] = time.monotonic()

    def start_after_backoff(self, worker: int) -> None:
        backoff_s = self._backoff_s * 2.0 ** self._consecutive_deaths[worker]
        self._consecutive_deaths[worker] += 1
        self._due_s[worker] = time.monotonic() + min(MAX_BACKOFF_S, backoff_s)


class WorkerPool(ABC):
    """Workers under one scheduler, started and fed until the job is complete, is stopped or fails.

    A worker that dies is restarted after `backoff_s`, doubled with each death in a row; one that hangs is killed
    first. When the job stops, the workers have `grace_s` to save what they have.
    """

    def __init__(self, job: Job, workers: int, backoff_s: float, grace_s: float, watchdog: Watchdog):
        self.job = job
        self.scheduler = Scheduler(job)
        self.grace_s = grace_s
        self.watchdog = watchdog
        self.start_times = StartTimes(min(workers, len(job.units) + len(job.steal_units)), backoff_s)
        self.error: RelayError | None = None
        self._retry_at_s = time.monotonic() + RETRY_HELD_ELSEWHERE_S

    def run(self) -> None:
        """Run the job to completion.

        Raises the first RelayError of a worker, JobStoppedError if workers die without a single input to blame, and
        Interrupted after a signal.
        """
        try:
            while not (self.scheduler.is_finished or self.job.stop.is_set() or self.error):
                for worker in self.start_times.pop_due():
                    self.start(worker)
                self._retry_held_elsewhere()
                self.feed()
                self.poll()
                self._kill_hanging()
            self.shut_down()
        finally:
            self.kill_all()
        if self.error:
            raise self.error
        raise_if_stopped(self.job, self.scheduler)

    def _retry_held_elsewhere(self) -> None:
        if self.scheduler.is_waiting_for_others and time.monotonic() >= self._retry_at_s:
            self.scheduler.retry_held_elsewhere()
            self._retry_at_s = time.monotonic() + RETRY_HELD_ELSEWHERE_S

    def _kill_hanging(self) -> None:
        self.watchdog.tick()
        for worker in self.running():
            shapes = self.scheduler.shapes_in_flight(worker)
            if not shapes and self.is_ready(worker):
                self.watchdog.note_idle(worker)
            if problem := self.watchdog.problem(worker, shapes):
                print(f"worker {worker} {problem}; killing it and starting it again", file=sys.stderr)
                self.kill(worker)
                self.restart_after_death(worker)

    def finished(self, worker: int, result: TaskResult) -> None:
        """Handle the result of a task."""
        self.start_times.reset_backoff(worker)
        self.watchdog.finished(self.job.catalog.shape(result.task.unit))
        self.scheduler.finished(worker, result)

    def restart_after_death(self, worker: int) -> None:
        """Report a death to the scheduler and set the time of the restart."""
        self.start_times.start_after_backoff(worker)
        try:
            self.scheduler.died(worker)
        except RelayError as error:
            self.error = error

    @abstractmethod
    def start(self, worker: int) -> None:
        """Start the worker with this number."""

    @abstractmethod
    def running(self) -> list[int]:
        """Return the workers that have been started and have not ended."""

    @abstractmethod
    def is_ready(self, worker: int) -> bool:
        """Whether a running worker has loaded what it needs."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """Kill a running worker."""

    @abstractmethod
    def feed(self) -> None:
        """Send tasks to the workers that can take some."""

    @abstractmethod
    def poll(self) -> None:
        """Wait up to `POLL_S` for messages, handle them, and replace workers that have died."""

    @abstractmethod
    def shut_down(self) -> None:
        """Ask all workers to exit, at once if the job is incomplete, and handle their last messages."""

    def kill_all(self) -> None:
        """Kill the workers that are still running."""
        for worker in self.running():
            self.kill(worker)


def raise_if_stopped(job: Job, scheduler: Scheduler) -> None:
    """Raise Interrupted if a signal ended the run before all units of the job were committed."""
    if not scheduler.is_finished:
        job.stop.raise_if_set(f"{scheduler.committed} units committed, finished rows of the next ones kept")
