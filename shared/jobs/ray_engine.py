"""Runs a job on a Ray cluster: one long-lived actor per device, wherever Ray places it.

Ray places the actors and reports their deaths; the records on disk alone tell what is done. Ray never restarts an
actor: the pool starts a new one in its place, so that the scheduler sees every death.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared.errors import Interrupted, RelayError, UsageError
from shared.jobs.job import Job, Task, TaskResult, Worker, WorkerContext
from shared.jobs.signals import STOP_SIGNALS, StopFlag
from shared.jobs.watchdog import Watchdog
from shared.jobs.worker_pool import POLL_S, WorkerPool
from shared.jobs.worker_process import picklable

# MindSpore needs protobuf in pure Python and sets this variable when it is imported. In an actor that is too late,
# because Ray has already imported protobuf.
ACTOR_ENVIRONMENT = {"env_vars": {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}}

FIRST_LIMIT_S = 24 * 3600.0  # an actor is silent until a whole unit is finished


def run_ray(
    job: Job,
    workers: int,
    address: str | None = None,
    backoff_s: float = 0.5,
    grace_s: float = 60.0,
    limit_s: float | None = None,
) -> None:
    """Run a job with actors that have one NPU each, or one CPU each on a cluster without NPUs.

    With no `address`, uses the cluster that this process belongs to, or else starts one on this machine. Raises what
    `run_local` raises, and UsageError if Ray is not installed.
    """
    with _connection(address):
        _ActorPool(job, workers, backoff_s, grace_s, Watchdog(limit_s, FIRST_LIMIT_S)).run()


@contextlib.contextmanager
def _connection(address: str | None) -> Iterator[None]:
    """Connect to a cluster unless the caller has done so; keep the job's own signal handlers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: Ray is not installed; pip install emu3-relay[ray]") from error
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    with contextlib.suppress(ValueError):  # outside the main thread, where Ray installs no handlers
        for number, handler in handlers.items():
            if handler is not None:  # None: it was not installed from Python
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a call to an actor returns: results, or an error for the user, and progress by unit.

    The first one tells the actor's node and process.
    """

    results: tuple[TaskResult, ...] = ()
    error: RelayError | None = None
    progress: dict[int, int] = field(default_factory=dict)
    process: tuple[str, int] | None = None


class _CancelFlag(StopFlag):
    """Set once the current call is cancelled: the only message that reaches an actor while it is working."""

    def is_set(self) -> bool:
        if not super().is_set():
            import ray

            if ray.get_runtime_context().is_canceled():
                self.set("the job")
        return super().is_set()


class _WorkerActor:
    """An actor around a worker, which continues where it was with every call.

    To the scheduler, an exception that escapes a call is a death.
    """

    def __init__(self, make_worker: Callable[[WorkerContext], Worker]):
        self.make_worker = make_worker
        self.stop = _CancelFlag()
        self.queue: deque[Task] = deque()
        self.in_hand = 0
        self.progress: Counter[int] = Counter()
        self.last_reply = _Reply()
        self.worker: Worker | None = None
        self.results: Iterator[TaskResult] | None = None

    def start(self) -> _Reply:
        """Construct the worker."""
        try:
            self.worker = self.make_worker(WorkerContext(self.stop, self._report_progress))
        except RelayError as error:
            return _Reply(error=picklable(error))
        import ray

        return _Reply(process=(ray.get_runtime_context().get_node_id(), os.getpid()))

    def work(self, tasks: list[Task]) -> _Reply:
        """Accept tasks, and return when one of those in hand is finished."""
        self.queue += tasks
        if self.results is None:
            assert self.worker is not None, "an actor gets tasks only after it has started"
            self.results = self.worker.work(self._tasks())
        return self._reply(max_results=1)

    def shut_down(self, is_last_reply_lost: bool) -> _Reply:
        """Let the worker save what it has. The reply of a cancelled call is lost, so it is repeated here."""
        self.stop.set("the job")
        lost, rest = self.last_reply if is_last_reply_lost else _Reply(), self._reply(max_results=sys.maxsize)
        progress = Counter(lost.progress) + Counter(rest.progress)
        return _Reply(lost.results + rest.results, lost.error or rest.error, progress)

    def _reply(self, max_results: int) -> _Reply:
        results: list[TaskResult] = []
        error = None
        try:
            while len(results) < max_results and (result := next(self.results or iter(()), None)):
                self.in_hand -= 1
                results.append(result)
        except Interrupted:
            pass  # the worker has saved everything that it could
        except RelayError as raised:
            error = picklable(raised)
        self.last_reply = _Reply(tuple(results), error, dict(self.progress))
        self.progress.clear()
        return self.last_reply

    def _tasks(self) -> Iterator[Task | None]:
        """Yield tasks until the job stops. `work` is called only while there are tasks, so this never blocks."""
        while not self.stop.is_set() and (self.queue or self.in_hand):
            if self.queue:
                self.in_hand += 1
                yield self.queue.popleft()
            else:
                yield None

    def _report_progress(self, unit: int, count: int) -> None:
        self.progress[unit] += count


class _ActorPool(WorkerPool):
    """Actors, seen from the driver: each has at most one call, which brings new tasks and returns one result."""

    def __init__(self, job: Job, workers: int, backoff_s: float, grace_s: float, watchdog: Watchdog):
        import ray

        super().__init__(job, workers, backoff_s, grace_s, watchdog)
        self.ray = ray
        has_npus = ray.cluster_resources().get("NPU")
        device: dict[str, Any] = {"resources": {"NPU": 1}} if has_npus else {"num_cpus": 1}
        options = {**device, "runtime_env": ACTOR_ENVIRONMENT, "max_restarts": 0, "max_task_retries": 0}
        self.actor_class: Any = ray.remote(**options)(_WorkerActor)
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, int] = {}
        self.started: set[int] = set()

    def start(self, worker: int) -> None:
        self.actors[worker] = self.actor_class.remote(self.job.make_worker)
        self.calls[self.actors[worker].start.remote()] = worker  # until it returns, Ray may lack a free device

    def running(self) -> list[int]:
        return list(self.actors)

    def is_ready(self, worker: int) -> bool:
        return worker in self.started

    def kill(self, worker: int) -> None:
        """Kill an actor; one that failed or is out of reach may still be alive."""
        self.started.discard(worker)
        self.calls = {call: other for call, other in self.calls.items() if other != worker}
        self.ray.kill(self.actors.pop(worker))
        self.watchdog.forget(worker)

    def feed(self) -> None:
        for worker in self.actors.keys() - self.calls.values():
            tasks = list(iter(partial(self.scheduler.next_task, worker), None))
            if tasks or self.scheduler.in_flight(worker):
                self.calls[self.actors[worker].work.remote(tasks)] = worker

    def poll(self) -> None:
        if not self.calls:
            time.sleep(POLL_S)
            return
        ready, _ = self.ray.wait(list(self.calls), timeout=POLL_S)
        for call in ready:
            worker = self.calls.pop(call)
            try:
                self._handle(worker, self.ray.get(call))
            except self.ray.exceptions.RayError as error:
                print(f"worker {worker} died; starting another one in its place: {error}", file=sys.stderr)
                self.kill(worker)
                self.restart_after_death(worker)

    def _handle(self, worker: int, reply: _Reply) -> None:
        self.started.add(worker)
        self.watchdog.note_message(worker)
        if reply.process:
            node, pid = reply.process
            self.watchdog.watch(worker, pid if node == self.ray.get_runtime_context().get_node_id() else None)
        for unit, count in reply.progress.items():
            self.scheduler.progressed(unit, count)
        for result in reply.results:
            self.finished(worker, result)
        self.error = self.error or reply.error

    def shut_down(self) -> None:
        """Cancel the current calls and collect a last reply from every actor."""
        for call in self.calls:
            self.ray.cancel(call)
        cancelled = set(self.calls.values())
        calls = {self.actors[worker].shut_down.remote(worker in cancelled): worker for worker in self.started}
        ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=self.grace_s) if calls else ((), ())
        for call in ready:
            with contextlib.suppress(self.ray.exceptions.RayError):  # it has died; nothing on disk is lost
                self._handle(calls[call], self.ray.get(call))
