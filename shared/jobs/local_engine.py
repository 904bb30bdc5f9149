"""Runs a job on this machine: in this process, or by one process a device, each restarted when it dies.

Parent and child (`engine_child`) talk over a pipe. The parent hands out tasks and holds the claims, the child commits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from shared.errors import RelayError, UsageError
from shared.jobs.dispatch import Dispatcher
from shared.jobs.engine_child import STOPS, Note, Progress, serve
from shared.jobs.job import Done, Host, Job, Task, Worker
from shared.jobs.signals import StopFlag

DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
TICK_S = 0.2  # how long a signal may go unnoticed
RETRY_ELSEWHERE_S = 5.0
LONGEST_PAUSE_S = 8.0
EXIT_GRACE_S = 5.0  # for a child to leave its libraries in good order once it has closed its pipe


def run_here(job: Job) -> None:
    """Runs a job by one worker in this process. Raises what the worker raises, Interrupted after a signal."""
    dispatcher = Dispatcher(job)
    tasks = _tasks_here(job, dispatcher)
    first = next(tasks, None)
    if first is not None:  # without any unit there is no need for a worker and its model
        worker = job.make_worker(Host(job.stop, dispatcher.progressed))
        for done in worker.work(_chain(first, tasks)):
            dispatcher.done(0, done)
    assert dispatcher.is_finished or job.stop.is_set(), "a worker returns with tasks in hand only once it is to stop"
    raise_if_stopped(job, dispatcher)


def _tasks_here(job: Job, dispatcher: Dispatcher) -> Iterator[Task | None]:
    while not job.stop.is_set():
        task = dispatcher.next_task(0)
        if task is None and not dispatcher.in_flight(0):
            if dispatcher.is_finished:
                return
            _wait_for_others(job.stop, time.monotonic() + RETRY_ELSEWHERE_S)
            dispatcher.retry_elsewhere()
        else:
            yield task


def _chain(first: Task | None, rest: Iterator[Task | None]) -> Iterator[Task | None]:
    yield first
    yield from rest


def _wait_for_others(stop: StopFlag, until_s: float) -> None:
    while not stop.is_set() and time.monotonic() < until_s:
        time.sleep(TICK_S)


def raise_if_stopped(job: Job, dispatcher: Dispatcher) -> None:
    """Raises Interrupted if a signal has ended the run of a job before its units were all committed."""
    if not dispatcher.is_finished:
        job.stop.raise_if_set(f"{dispatcher.committed} units committed, what was done of the next ones kept")


def run_local(job: Job, workers: int, pause_s: float = 0.5, grace_s: float = 60.0) -> None:
    """Runs a job by this many processes. Its worker's RelayErrors stop all of them and are raised here.

    A process that dies is started again after `pause_s`, doubled with each death in a row. When the
    job stops, processes have `grace_s` to keep what they have. Raises Interrupted after a signal, JobStoppedError if
    processes die for other reasons than single inputs, UsageError if there are fewer devices listed than workers.
    """
    fleet = _Fleet(job, [visible_devices(os.environ, number) for number in range(workers)], pause_s, grace_s)
    fleet.run()
    raise_if_stopped(job, fleet.dispatcher)


def visible_devices(environ: Mapping[str, str], number: int) -> str:
    """The device of the worker of this number: from the list that the parent was given, or all there are."""
    listed = [name.strip() for name in environ.get(DEVICES, "").split(",") if name.strip()]
    if not listed:
        return str(number)
    if number >= len(listed):
        raise UsageError(f"{DEVICES}={environ[DEVICES]}: expected one a worker; use {len(listed)} workers")
    return listed[number]


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


class _Fleet:
    """The parent's side: starts children, feeds them, listens to them."""

    def __init__(self, job: Job, devices: list[str], pause_s: float, grace_s: float):
        self.job = job
        self.dispatcher = Dispatcher(job)
        self.devices = devices
        self.grace_s = grace_s
        self.children: dict[int, _Child] = {}
        self.starts = Starts(min(len(devices), len(job.units) + len(job.to_steal)), pause_s)
        self.retry_at_s = time.monotonic() + RETRY_ELSEWHERE_S
        self.error: RelayError | None = None

    def run(self) -> None:
        try:
            while not (self.dispatcher.is_finished or self.job.stop.is_set() or self.error):
                self._start_what_is_due()
                self._feed()
                self._listen()
            self._end()
        finally:
            for child in self.children.values():
                child.kill()
        if self.error:
            raise self.error

    def _start_what_is_due(self) -> None:
        for number in self.starts.due():
            self.children[number] = _Child(self.job.make_worker, number, self.devices[number])

    def _feed(self) -> None:
        if self.dispatcher.waits_for_others and time.monotonic() >= self.retry_at_s:
            self.dispatcher.retry_elsewhere()
            self.retry_at_s = time.monotonic() + RETRY_ELSEWHERE_S
        for number, child in self.children.items():
            while child.is_ready and not child.has_ended and (task := self.dispatcher.next_task(number)):
                child.send(task)

    def _listen(self) -> None:
        """Waits a tick at most, hears what children say, and starts again those that have died."""
        wait([child.connection for child in self.children.values()], TICK_S)
        for number, child in list(self.children.items()):
            has_exited = not child.process.is_alive()  # before its last words are read, so that none are missed
            for message in child.messages():
                self._hear(number, child, message)
            if has_exited or child.is_silent:
                child.kill()
                del self.children[number]
                self._replace(number, child)

    def _hear(self, number: int, child: _Child, message: Any) -> None:
        if isinstance(message, Done):
            self.starts.has_worked(number)
            self.dispatcher.done(number, message)
        elif isinstance(message, Progress):
            self.dispatcher.progressed(message.unit, message.count)
        elif isinstance(message, RelayError):
            self.error = self.error or message
        elif message is Note.READY:
            child.is_ready = True
        elif message is Note.ENDED:
            child.has_ended = True

    def _replace(self, number: int, child: _Child) -> None:
        if self.error or child.is_asked_to_end:
            return
        if child.has_ended:  # somebody sent SIGTERM to it alone
            self.dispatcher.gave_back(number)
            self.starts.again(number)
            return
        print(f"worker {number} died (exit code {child.process.exitcode}), starts again", file=sys.stderr)
        self.starts.after_death(number)
        try:
            self.dispatcher.died(number)
        except RelayError as error:
            self.error = error

    def _end(self) -> None:
        """Ends all children, at once if there is nothing left to do, and hears them out."""
        for child in self.children.values():
            child.ask_to_end(is_urgent=not self.dispatcher.is_finished)
        until_s = time.monotonic() + self.grace_s
        while self.children and time.monotonic() < until_s:
            self._listen()


class _Child:
    """One worker process, as its parent sees it."""

    def __init__(self, make_worker: Callable[[Host], Worker], number: int, devices: str):
        self.is_ready = self.has_ended = self.is_silent = self.is_asked_to_end = False
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(make_worker, theirs), name=f"worker-{number}")
        resource_tracker.ensure_running()  # it would unblock the signals
        with _environment(DEVICES, devices), _blocked_signals():
            self.process.start()
        theirs.close()

    def send(self, task: Task | None) -> None:
        with contextlib.suppress(OSError):  # it has died: its silence tells
            self.connection.send(task)

    def messages(self) -> Iterator[Any]:
        """What it has said so far; notes when it can say no more."""
        try:
            while not self.is_silent and self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            self.is_silent = True

    def ask_to_end(self, is_urgent: bool) -> None:
        self.is_asked_to_end = True
        self.send(None)
        if is_urgent:
            self.process.terminate()

    def kill(self) -> None:
        """Ends it for certain; one that has closed its pipe is about to end by itself."""
        self.process.join(EXIT_GRACE_S if self.is_silent else 0)
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """For a process started inside the block: it has the variable before it imports anything."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """A child inherits the block, and lifts it once it has its own handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
