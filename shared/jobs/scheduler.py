"""Decides which worker does which task next, and what happens to the tasks of a worker that died.

This module starts no processes and reads no clock. Units of one shape go to the same worker, so that each worker
compiles few graphs. A unit that was in flight when its worker died becomes a suspect (see `poison_search`) and is
retried before all others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable

from shared.errors import JobStoppedError
from shared.jobs.job import ClaimStatus, Job, Task, TaskResult
from shared.jobs.poison_search import Suspect

MAX_IDLE_DEATHS = 3  # deaths in a row of a worker that has no task


class Scheduler:
    """Hands out the units of a job until each of them is committed once."""

    def __init__(self, job: Job):
        self.job = job
        self.committed = 0
        self._queues: dict[Hashable, deque[int]] = {}  # by shape
        self._steal_units = list(job.steal_units)
        self._held_elsewhere: list[int] = []
        self._claimed: set[int] = set()
        self._suspects: dict[int, Suspect] = {}
        self._retries: deque[Suspect] = deque()
        self._in_flight: dict[int, list[Task]] = {}  # by worker
        self._last_shape: dict[int, Hashable] = {}  # by worker
        self._idle_deaths: Counter[int] = Counter()  # in a row, by worker
        self._consecutive_poison: Counter[int] = Counter()  # by worker
        self._progress: Counter[int] = Counter()  # by unit
        self._enqueue(job.units)

    def _enqueue(self, units: Iterable[int]) -> None:
        for unit in units:
            self._queues.setdefault(self.job.catalog.shape(unit), deque()).append(unit)

    @property
    def is_finished(self) -> bool:
        """Whether no task is available or in flight, for any worker, now or later."""
        has_work = self._queues or self._steal_units or self._retries or any(self._in_flight.values())
        return not has_work and not self.is_waiting_for_others

    @property
    def is_waiting_for_others(self) -> bool:
        """Whether other jobs hold units that `retry_held_elsewhere` should try again after a while."""
        return bool(self._held_elsewhere) and self.job.wait_for_others

    def in_flight(self, worker: int) -> int:
        return len(self._in_flight.get(worker, ()))

    def shapes_in_flight(self, worker: int) -> set[Hashable]:
        return {self.job.catalog.shape(task.unit) for task in self._in_flight.get(worker, ())}

    def next_task(self, worker: int) -> Task | None:
        """Return a task for a worker, or None if there is none for it now. A suspect is always the only task."""
        tasks = self._in_flight.setdefault(worker, [])
        if len(tasks) >= self.job.max_in_flight or any(task.unit in self._suspects for task in tasks):
            return None
        if self._retries and not tasks:
            task = self._retries.popleft().task()
        elif (unit := self._next_unit(worker)) is not None:
            task = Task(unit)
        else:
            return None
        tasks.append(task)
        return task

    def _next_unit(self, worker: int) -> int | None:
        while self._queues or self._steal_units:
            if not self._queues:
                self._steal_units, units = [], self._steal_units
                self._enqueue(units)
            shape = self._shape_for(worker)
            unit = self._queues[shape].popleft()
            if not self._queues[shape]:
                del self._queues[shape]
            if self._claim(unit):
                self._last_shape[worker] = shape
                return unit
        return None

    def _shape_for(self, worker: int) -> Hashable:
        """Return the worker's last shape, or the one with the most units left per worker if this one joins it."""
        last = self._last_shape.get(worker)
        if last in self._queues:
            return last
        workers = Counter(shape for other, shape in self._last_shape.items() if other != worker)
        return max(self._queues, key=lambda shape: len(self._queues[shape]) / (workers[shape] + 1))

    def _claim(self, unit: int) -> bool:
        if unit not in self._claimed:
            status = self.job.claims.claim(unit)
            if status is ClaimStatus.HELD_ELSEWHERE:
                self._held_elsewhere.append(unit)
            if status is not ClaimStatus.ACQUIRED:
                return False
            self._claimed.add(unit)
        return True

    def retry_held_elsewhere(self) -> None:
        """Put the units that other jobs held back into the queues."""
        self._held_elsewhere, units = [], self._held_elsewhere
        self._enqueue(units)

    def progressed(self, unit: int, count: int) -> None:
        self._progress[unit] += count
        self.job.on_progress(count)

    def _undo_progress(self, unit: int) -> None:
        if count := self._progress.pop(unit, 0):
            self.job.on_progress(-count)

    def finished(self, worker: int, result: TaskResult) -> None:
        """Handle the result of a task."""
        task = result.task
        self._in_flight[worker].remove(task)
        self._idle_deaths[worker] = 0
        suspect = self._suspects.get(task.unit)
        if task.subset or suspect is None:  # a whole suspect may have had nothing left to compute
            self._consecutive_poison[worker] = 0
        if task.subset:
            assert suspect is not None, "only suspects are computed in subsets"
            suspect.subset_finished()
            self._retries.appendleft(suspect)
            self._undo_progress(task.unit)  # the whole unit reports its resumed rows again
        else:
            self._committed(result)

    def _committed(self, result: TaskResult) -> None:
        unit = result.task.unit
        self._suspects.pop(unit, None)
        self._progress.pop(unit, None)
        self._claimed.discard(unit)
        self.job.claims.release(unit)
        self.committed += 1
        self.job.on_result(result)

    def returned(self, worker: int) -> None:
        """Take back the tasks of a worker that exited in good order. They are not suspects."""
        for task in reversed(self._in_flight.pop(worker, [])):
            self._undo_progress(task.unit)
            if suspect := self._suspects.get(task.unit):
                self._retries.appendleft(suspect)
            else:
                self._queues.setdefault(self.job.catalog.shape(task.unit), deque()).appendleft(task.unit)

    def died(self, worker: int) -> None:
        """Handle the death of a worker. Raises JobStoppedError if restarting it would not help."""
        tasks = self._in_flight.pop(worker, [])
        for task in reversed(tasks):
            self._undo_progress(task.unit)
            suspect = self._suspects.get(task.unit) or Suspect(task.unit, self.job.catalog.src_indices(task.unit))
            self._suspects[task.unit] = suspect
            self._retries.appendleft(suspect)
            if suspect.died():
                self._count_poison(worker, suspect)
        self._idle_deaths[worker] += not tasks
        if self._idle_deaths[worker] >= MAX_IDLE_DEATHS:
            raise JobStoppedError(
                f"worker {worker} died {MAX_IDLE_DEATHS} times in a row before it started any work; see its output"
                " above; if memory is short, use fewer workers; then run the same command"
            )

    def _count_poison(self, worker: int, suspect: Suspect) -> None:
        self._consecutive_poison[worker] += 1
        if (count := self._consecutive_poison[worker]) >= self.job.max_consecutive_poison:
            raise JobStoppedError(
                f"{count} inputs in a row killed worker {worker}, the last: input {suspect.poison[-1]} of unit"
                f" {suspect.unit}, which was not committed; the likely cause is its device, its memory or its model:"
                " see its output above, fix the cause and run the same command"
            )
