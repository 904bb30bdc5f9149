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
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from shared.errors import RelayError, UsageError
from shared.jobs import worker_pool
from shared.jobs.job import Done, Host, Job, Task, Worker
from shared.jobs.scheduler import Dispatcher
from shared.jobs.signals import StopFlag
from shared.jobs.worker_pool import TICK_S, Fleet, raise_if_stopped
from shared.jobs.worker_process import STOPS, Note, Progress, serve

DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
EXIT_GRACE_S = 5.0  # for a child to leave its libraries in good order once it has closed its pipe


def run_here(job: Job) -> None:
    """Runs a job by one worker in this process. Raises what the worker raises, Interrupted after a signal."""
    dispatcher = Dispatcher(job)
    tasks = _tasks_here(job, dispatcher)
    first = next(tasks, None)
    if first is not None:  # without any unit there is no need for a worker and its model
        worker = job.make_worker(Host(job.stop, dispatcher.progressed))
        for done in worker.work(chain((first,), tasks)):
            dispatcher.done(0, done)
    assert dispatcher.is_finished or job.stop.is_set(), "a worker returns with tasks in hand only once it is to stop"
    raise_if_stopped(job, dispatcher)


def _tasks_here(job: Job, dispatcher: Dispatcher) -> Iterator[Task | None]:
    while not job.stop.is_set():
        task = dispatcher.next_task(0)
        if task is None and not dispatcher.in_flight(0):
            if dispatcher.is_finished:
                return
            _wait_for_others(job.stop, time.monotonic() + worker_pool.RETRY_ELSEWHERE_S)
            dispatcher.retry_elsewhere()
        else:
            yield task


def _wait_for_others(stop: StopFlag, until_s: float) -> None:
    while not stop.is_set() and time.monotonic() < until_s:
        time.sleep(TICK_S)


def run_local(job: Job, workers: int, pause_s: float = 0.5, grace_s: float = 60.0) -> None:
    """Runs a job by this many processes, as `Fleet` says; their RelayErrors stop all of them and are raised here.

    Raises UsageError if there are fewer devices listed than workers.
    """
    _Processes(job, [visible_devices(os.environ, number) for number in range(workers)], pause_s, grace_s).run()


def visible_devices(environ: Mapping[str, str], number: int) -> str:
    """The device of the worker of this number: from the list that the parent was given, or all there are."""
    listed = [name.strip() for name in environ.get(DEVICES, "").split(",") if name.strip()]
    if not listed:
        return str(number)
    if number >= len(listed):
        raise UsageError(f"{DEVICES}={environ[DEVICES]}: expected one a worker; use {len(listed)} workers")
    return listed[number]


class _Processes(Fleet):
    """The parent's side: starts children, feeds them, listens to them."""

    def __init__(self, job: Job, devices: list[str], pause_s: float, grace_s: float):
        super().__init__(job, len(devices), pause_s, grace_s)
        self.devices = devices
        self.children: dict[int, _Child] = {}

    def start(self, number: int) -> None:
        self.children[number] = _Child(self.job.make_worker, number, self.devices[number])

    def feed(self) -> None:
        for number, child in self.children.items():
            while child.is_ready and not child.has_ended and (task := self.dispatcher.next_task(number)):
                child.send(task)

    def listen(self) -> None:
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
        self.has_died(number)

    def end(self) -> None:
        for child in self.children.values():
            child.ask_to_end(is_urgent=not self.dispatcher.is_finished)
        until_s = time.monotonic() + self.grace_s
        while self.children and time.monotonic() < until_s:
            self.listen()

    def kill_all(self) -> None:
        for child in self.children.values():
            child.kill()


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
