"""Runs a job on a Ray cluster: one long-lived actor a device, wherever Ray places it.

Ray places and tells of deaths; what is done stays with the records on disk. An actor is never restarted by Ray: a
new one takes its place, so that the dispatcher hears of every death.
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
from typing import Any

from shared.errors import Interrupted, RelayError, UsageError
from shared.jobs.job import Done, Host, Job, Task, Worker
from shared.jobs.signals import StopFlag
from shared.jobs.worker_pool import TICK_S, Fleet
from shared.jobs.worker_process import portable

# MindSpore needs protobuf in pure Python, and asks for it when it is imported: in an actor too late, because Ray has
# imported protobuf by then.
ACTOR_ENVIRONMENT = {"env_vars": {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}}


def run_ray(job: Job, workers: int, address: str | None = None, pause_s: float = 0.5, grace_s: float = 60.0) -> None:
    """Runs a job by this many actors, each with an NPU, or with a CPU on clusters that have no NPU.

    `address` is that of a cluster, None the one around this process or else a new one on this machine. Raises as
    `run_local` does, and UsageError if Ray is not installed.
    """
    with _connection(address):
        _Actors(job, workers, pause_s, grace_s).run()


@contextlib.contextmanager
def _connection(address: str | None) -> Iterator[None]:
    """Connects to a cluster, unless the caller has, quietly; handlers of signals stay those of the job."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: Ray is not installed; pip install emu3-relay[ray]") from error
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    with contextlib.suppress(ValueError):  # not in the main thread: Ray has set none there
        for number, handler in handlers.items():
            if handler is not None:  # one of Python
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a call to an actor came to: a unit done, an error for the user or neither; progress by unit."""

    done: tuple[Done, ...] = ()
    error: RelayError | None = None
    progress: dict[int, int] = field(default_factory=dict)


class _CancelFlag(StopFlag):
    """Set once the call under way has been cancelled: the only word that reaches an actor while it works."""

    def is_set(self) -> bool:
        if not super().is_set():
            import ray

            if ray.get_runtime_context().is_canceled():
                self.set("the job")
        return super().is_set()


class _Seat:
    """The actor: a worker that goes on where it was with every call. Its exceptions are deaths to the dispatcher."""

    def __init__(self, make_worker: Callable[[Host], Worker]):
        self.make_worker = make_worker
        self.stop = _CancelFlag()
        self.feed: deque[Task] = deque()
        self.in_hand = 0
        self.progress: Counter[int] = Counter()
        self.last = _Answer()
        self.worker: Worker | None = None
        self.results: Iterator[Done] | None = None

    def start(self) -> _Answer:
        """Makes the worker."""
        try:
            self.worker = self.make_worker(Host(self.stop, self._note_progress))
        except RelayError as error:
            return _Answer(error=portable(error))
        return _Answer()

    def work(self, tasks: list[Task]) -> _Answer:
        """Hands over tasks, and returns when one of those in hand is done."""
        self.feed += tasks
        if self.results is None:
            assert self.worker is not None, "actors that have not started get no tasks"
            self.results = self.worker.work(self._tasks())
        return self._answer(at_most=1)

    def end(self, is_last_lost: bool) -> _Answer:
        """Lets the worker keep what it has. A call that was cancelled is not heard, so its answer is given here."""
        self.stop.set("the job")
        lost, rest = self.last if is_last_lost else _Answer(), self._answer(at_most=sys.maxsize)
        return _Answer(lost.done + rest.done, lost.error or rest.error, Counter(lost.progress) + Counter(rest.progress))

    def _answer(self, at_most: int) -> _Answer:
        done: list[Done] = []
        error = None
        try:
            while len(done) < at_most and (result := next(self.results or iter(()), None)):
                self.in_hand -= 1
                done.append(result)
        except Interrupted:
            pass  # everything that can be kept is
        except RelayError as raised:
            error = portable(raised)
        self.last = _Answer(tuple(done), error, dict(self.progress))
        self.progress.clear()
        return self.last

    def _tasks(self) -> Iterator[Task | None]:
        """Ends with the job; while it lasts the worker is only called when there is a task for it."""
        while not self.stop.is_set() and (self.feed or self.in_hand):
            if self.feed:
                self.in_hand += 1
                yield self.feed.popleft()
            else:
                yield None

    def _note_progress(self, unit: int, count: int) -> None:
        self.progress[unit] += count


class _Actors(Fleet):
    """The driver's side: one call to each actor at a time, which brings new tasks and returns with one done."""

    def __init__(self, job: Job, workers: int, pause_s: float, grace_s: float):
        import ray

        super().__init__(job, workers, pause_s, grace_s)
        self.ray = ray
        has_npus = ray.cluster_resources().get("NPU")
        device: dict[str, Any] = {"resources": {"NPU": 1}} if has_npus else {"num_cpus": 1}
        options = {**device, "runtime_env": ACTOR_ENVIRONMENT, "max_restarts": 0, "max_task_retries": 0}
        self.actor_class: Any = ray.remote(**options)(_Seat)
        self.actors: dict[int, Any] = {}
        self.calls: dict[Any, int] = {}
        self.has_started: set[int] = set()

    def start(self, number: int) -> None:
        self.actors[number] = self.actor_class.remote(self.job.make_worker)
        self.calls[self.actors[number].start.remote()] = number

    def feed(self) -> None:
        for number in self.actors.keys() - self.calls.values():
            tasks = list(self._tasks_for(number))
            if tasks or self.dispatcher.in_flight(number):
                self.calls[self.actors[number].work.remote(tasks)] = number

    def _tasks_for(self, number: int) -> Iterator[Task]:
        while task := self.dispatcher.next_task(number):
            yield task

    def listen(self) -> None:
        if not self.calls:
            time.sleep(TICK_S)
            return
        ready, _ = self.ray.wait(list(self.calls), timeout=TICK_S)
        for call in ready:
            number = self.calls.pop(call)
            try:
                self._hear(number, self.ray.get(call))
            except self.ray.exceptions.RayError as error:
                print(f"worker {number} died, another one takes its place: {error}", file=sys.stderr)
                self._replace(number)

    def _hear(self, number: int, answer: _Answer) -> None:
        self.has_started.add(number)
        for unit, count in answer.progress.items():
            self.dispatcher.progressed(unit, count)
        for done in answer.done:
            self.starts.has_worked(number)
            self.dispatcher.done(number, done)
        self.error = self.error or answer.error

    def _replace(self, number: int) -> None:
        self.has_started.discard(number)
        self.ray.kill(self.actors.pop(number))  # one that is out of reach or has failed may be alive still
        self.has_died(number)

    def end(self) -> None:
        """What cancelled calls did is told by the last one."""
        for call in self.calls:
            self.ray.cancel(call)
        lost = set(self.calls.values())
        calls = {self.actors[number].end.remote(number in lost): number for number in self.has_started}
        ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=self.grace_s) if calls else ((), ())
        for call in ready:
            with contextlib.suppress(self.ray.exceptions.RayError):  # it died meanwhile: nothing is lost on disk
                self._hear(calls[call], self.ray.get(call))

    def kill_all(self) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor)
