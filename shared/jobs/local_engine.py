"""Runs a job on this machine: in this process, or in one process per device, each restarted when it dies.

Parent and child (`worker_process`) communicate through a pipe. The parent hands out tasks and holds the claims; the
child commits.
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
from shared.jobs.job import Job, Task, TaskResult, Worker, WorkerContext
from shared.jobs.process_tree import is_suspended, note_unkillable
from shared.jobs.scheduler import Scheduler
from shared.jobs.watchdog import Watchdog
from shared.jobs.worker_pool import POLL_S, WorkerPool, raise_if_stopped
from shared.jobs.worker_process import STOP_SIGNALS, Progress, WorkerState, serve

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
EXIT_GRACE_S = 5.0  # for a process that has closed its pipe to unload its libraries


def run_in_process(job: Job) -> None:
    """Run a job with one worker in this process. Raises what the worker raises, Interrupted after a signal."""
    scheduler = Scheduler(job)
    tasks = _tasks_in_process(job, scheduler)
    first = next(tasks, None)
    if first is not None:  # without units no worker and no model is needed
        worker = job.make_worker(WorkerContext(job.stop, scheduler.progressed))
        for result in worker.work(chain((first,), tasks)):
            scheduler.finished(0, result)
    assert scheduler.is_finished or job.stop.is_set(), "a worker may keep tasks in hand only if it was stopped"
    raise_if_stopped(job, scheduler)


def _tasks_in_process(job: Job, scheduler: Scheduler) -> Iterator[Task | None]:
    while not job.stop.is_set():
        task = scheduler.next_task(0)
        if task is None and not scheduler.in_flight(0):
            if scheduler.is_finished:
                return
            until_s = time.monotonic() + worker_pool.RETRY_HELD_ELSEWHERE_S
            while not job.stop.is_set() and time.monotonic() < until_s:
                time.sleep(POLL_S)
            scheduler.retry_held_elsewhere()
        else:
            yield task


def run_local(
    job: Job, workers: int, backoff_s: float = 0.5, grace_s: float = 60.0, limit_s: float | None = None
) -> None:
    """Run a job in several processes (see `WorkerPool`).

    A RelayError of one worker stops all of them and is raised here. Raises UsageError if fewer devices are visible
    than there are workers.
    """
    devices = [visible_device(os.environ, worker) for worker in range(workers)]
    _ProcessPool(job, devices, backoff_s, grace_s, Watchdog(limit_s)).run()


def visible_device(environ: Mapping[str, str], worker: int) -> str:
    """Return the device of a worker: from the list of visible devices if there is one, else by number."""
    devices = [name.strip() for name in environ.get(VISIBLE_DEVICES, "").split(",") if name.strip()]
    if not devices:
        return str(worker)
    if worker >= len(devices):
        raise UsageError(
            f"{VISIBLE_DEVICES}={environ[VISIBLE_DEVICES]}: expected one per worker; use {len(devices)} workers"
        )
    return devices[worker]


class _ProcessPool(WorkerPool):
    """Worker processes, seen from their parent."""

    def __init__(self, job: Job, devices: list[str], backoff_s: float, grace_s: float, watchdog: Watchdog):
        super().__init__(job, len(devices), backoff_s, grace_s, watchdog)
        self.devices = devices
        self.children: dict[int, _Child] = {}

    def start(self, worker: int) -> None:
        self.children[worker] = _Child(self.job.make_worker, worker, self.devices[worker])
        self.watchdog.watch(worker, self.children[worker].process.pid)

    def running(self) -> list[int]:
        return list(self.children)

    def is_ready(self, worker: int) -> bool:
        return self.children[worker].is_ready

    def kill(self, worker: int) -> None:
        self.children.pop(worker).kill()
        self.watchdog.forget(worker)

    def feed(self) -> None:
        for worker, child in self.children.items():
            while child.is_ready and not child.is_exiting and (task := self.scheduler.next_task(worker)):
                child.send(task)

    def poll(self) -> None:
        wait([child.connection for child in self.children.values()], POLL_S)
        for worker, child in list(self.children.items()):
            has_exited = not child.process.is_alive()  # checked before reading, so that no last message is missed
            for message in child.messages():
                self._handle(worker, child, message)
            if has_exited or child.is_disconnected:
                self.kill(worker)
                self._replace(worker, child)

    def _handle(self, worker: int, child: _Child, message: Any) -> None:
        self.watchdog.note_message(worker)
        if isinstance(message, TaskResult):
            self.finished(worker, message)
        elif isinstance(message, Progress):
            self.scheduler.progressed(message.unit, message.count)
        elif isinstance(message, RelayError):
            self.error = self.error or message
        elif message is WorkerState.READY:
            child.is_ready = True
        elif message is WorkerState.EXITING:
            child.is_exiting = child.is_disconnected = True  # it only has to unload its libraries

    def _replace(self, worker: int, child: _Child) -> None:
        if self.error or child.was_asked_to_exit:
            return
        if child.is_exiting:  # SIGTERM was sent to this process alone
            self.scheduler.returned(worker)
            self.start_times.start_now(worker)
            return
        print(f"worker {worker} died (exit code {child.process.exitcode}); restarting it", file=sys.stderr)
        self.restart_after_death(worker)

    def shut_down(self) -> None:
        for child in self.children.values():
            child.ask_to_exit(is_urgent=not self.scheduler.is_finished)
            if not child.is_ready or is_suspended(child.process.pid or 0):
                child.process.kill()  # it has nothing to save, or cannot
        until_s = time.monotonic() + self.grace_s
        while self.children and time.monotonic() < until_s:
            self.poll()


class _Child:
    """One worker process, seen from its parent."""

    def __init__(self, make_worker: Callable[[WorkerContext], Worker], worker: int, device: str):
        self.is_ready = self.is_exiting = self.is_disconnected = self.was_asked_to_exit = False
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=serve, args=(make_worker, child_end), name=f"worker-{worker}")
        resource_tracker.ensure_running()  # started inside the block, it would unblock the signals
        with _environment(VISIBLE_DEVICES, device), _blocked_signals():
            self.process.start()
        child_end.close()

    def send(self, task: Task | None) -> None:
        with contextlib.suppress(OSError):  # it has died, which `poll` will notice
            self.connection.send(task)

    def messages(self) -> Iterator[Any]:
        """Yield the messages received so far; sets `is_disconnected` when there can be no more."""
        try:
            while not self.is_disconnected and self.connection.poll():
                yield self.connection.recv()
        except (EOFError, OSError):
            self.is_disconnected = True

    def ask_to_exit(self, is_urgent: bool) -> None:
        self.was_asked_to_exit = True
        self.send(None)
        if is_urgent:
            self.process.terminate()

    def kill(self) -> None:
        """Make sure that the process ends; one that has closed its pipe is about to end by itself."""
        self.process.join(EXIT_GRACE_S if self.is_disconnected else 0)
        self.process.kill()
        self.process.join(EXIT_GRACE_S)
        if self.process.is_alive():
            note_unkillable(self.process.pid or 0, self.process.name)
        self.connection.close()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a process started inside the block, which then has it before it imports anything."""
    previous = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals for a process started inside the block; it unblocks them once its own handlers are installed."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
