"""Which task next for which worker, and what to do about the tasks of one that died. No processes, no clock.

Units of one shape go to the same worker, so that each compiles few shapes. A unit that was in flight when its worker
died becomes a suspect: it is tried alone, after a second death its inputs are tried in halves, and a single input
that kills its worker twice, alone, is poisonous: the unit is done without it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from shared.errors import JobStoppedError
from shared.jobs.job import Claimed, Done, Job, Task

DEATHS_OF_A_UNIT = 2  # before it is split
DEATHS_OF_AN_INPUT = 2  # alone, before it is poisonous: the first may have been chance, a lost node or a lack of memory
DEATHS_TO_GIVE_UP = 3  # in a row: of a worker without any task, of a unit all of whose inputs can be computed


@dataclass(slots=True)
class _Suspect:
    """A unit with which a worker died. `groups` of its inputs are to be tried, the last one next; None: all at once."""

    unit: int
    inputs: tuple[int, ...]
    deaths: int = 0
    groups: list[tuple[int, ...]] | None = None
    poisonous: list[int] = field(default_factory=list)

    def task(self) -> Task:
        if self.groups:
            return Task(self.unit, only=self.groups[-1])
        return Task(self.unit, poisonous=tuple(sorted(self.poisonous)))

    def group_is_kept(self) -> None:
        assert self.groups, "only a suspect with groups has tasks for some of its inputs"
        self.groups.pop()
        self.deaths = 0

    def died(self) -> bool:
        """Notes a death; returns whether it has shown an input to be poisonous. Raises JobStoppedError."""
        self.deaths += 1
        if self.groups is None:
            self._split_unit()
        elif not self.groups:
            self._check_whole()
        elif len(self.groups[-1]) > 1:
            self.groups += _halves(self.groups.pop())
            self.deaths = 0
        elif self.deaths >= DEATHS_OF_AN_INPUT:
            self.poisonous += self.groups.pop()
            self.deaths = 0
            return True
        return False

    def _split_unit(self) -> None:
        if self.deaths < DEATHS_OF_A_UNIT:
            return
        if len(self.inputs) == 1:
            self.groups, self.deaths = [self.inputs], DEATHS_OF_AN_INPUT - 1
        else:
            self.groups, self.deaths = _halves(self.inputs), 0

    def _check_whole(self) -> None:
        if self.deaths >= DEATHS_TO_GIVE_UP:
            raise JobStoppedError(
                f"unit {self.unit}: its worker died {self.deaths} times in a row, though each of its inputs could be"
                " computed alone; see the workers' output above, then run the same command"
            )


def _halves(inputs: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The second half first: the last one of a list is tried next."""
    middle = (len(inputs) + 1) // 2
    return [half for half in (inputs[middle:], inputs[:middle]) if half]


class Dispatcher:
    """Hands out the units of a job, each until it is committed once."""

    def __init__(self, job: Job):
        self.job = job
        self.committed = 0
        self._waiting: dict[Hashable, deque[int]] = {}
        self._to_steal = list(job.to_steal)
        self._elsewhere: list[int] = []
        self._mine: set[int] = set()
        self._suspects: dict[int, _Suspect] = {}
        self._to_retry: deque[_Suspect] = deque()
        self._in_flight: dict[int, list[Task]] = {}
        self._shapes: dict[int, Hashable] = {}
        self._deaths_without_task: Counter[int] = Counter()
        self._poisonous_in_a_row: Counter[int] = Counter()
        self._progress: Counter[int] = Counter()
        self._wait(job.units)

    def _wait(self, units: Iterable[int]) -> None:
        for unit in units:
            self._waiting.setdefault(self.job.shape_of(unit), deque()).append(unit)

    @property
    def is_finished(self) -> bool:
        """Whether no task is to be had or in flight, for any worker, now or later."""
        is_waiting = self._waiting or self._to_steal or self._to_retry or any(self._in_flight.values())
        return not is_waiting and not self.waits_for_others

    @property
    def waits_for_others(self) -> bool:
        """Whether there are units that others work on, to be tried again by `retry_elsewhere` after a while."""
        return bool(self._elsewhere) and self.job.waits_for_others

    def in_flight(self, worker: int) -> int:
        return len(self._in_flight.get(worker, ()))

    def next_task(self, worker: int) -> Task | None:
        """A task for a worker; None if there is none for it now. A suspect is a worker's only task."""
        tasks = self._in_flight.setdefault(worker, [])
        if len(tasks) >= self.job.in_flight or any(task.unit in self._suspects for task in tasks):
            return None
        if self._to_retry and not tasks:
            task = self._to_retry.popleft().task()
        elif (unit := self._next_unit(worker)) is not None:
            task = Task(unit)
        else:
            return None
        tasks.append(task)
        return task

    def _next_unit(self, worker: int) -> int | None:
        while self._waiting or self._to_steal:
            if not self._waiting:
                self._to_steal, units = [], self._to_steal
                self._wait(units)
            shape = self._shape_for(worker)
            unit = self._waiting[shape].popleft()
            if not self._waiting[shape]:
                del self._waiting[shape]
            if self._is_claimed(unit):
                self._shapes[worker] = shape
                return unit
        return None

    def _shape_for(self, worker: int) -> Hashable:
        """The worker's last shape, or the one with the most units left for each worker that it would then have."""
        last = self._shapes.get(worker)
        if last in self._waiting:
            return last
        busy = Counter(shape for other, shape in self._shapes.items() if other != worker)
        return max(self._waiting, key=lambda shape: len(self._waiting[shape]) / (busy[shape] + 1))

    def _is_claimed(self, unit: int) -> bool:
        if unit not in self._mine:
            claimed = self.job.claims.claim(unit)
            if claimed is Claimed.ELSEWHERE:
                self._elsewhere.append(unit)
            if claimed is not Claimed.HERE:
                return False
            self._mine.add(unit)
        return True

    def retry_elsewhere(self) -> None:
        """Puts the units that others worked on among the waiting ones again."""
        self._elsewhere, units = [], self._elsewhere
        self._wait(units)

    def progressed(self, unit: int, count: int) -> None:
        self._progress[unit] += count
        self.job.on_progress(count)

    def _take_back_progress(self, unit: int) -> None:
        if count := self._progress.pop(unit, 0):
            self.job.on_progress(-count)

    def done(self, worker: int, done: Done) -> None:
        """Notes what came of a task."""
        self._in_flight[worker].remove(done.task)
        self._deaths_without_task[worker] = 0
        suspect = self._suspects.get(done.task.unit)
        if done.task.only or suspect is None:  # a suspect as a whole may have had nothing left to compute
            self._poisonous_in_a_row[worker] = 0
        if done.task.only:
            assert suspect is not None, "only suspects are tried in parts"
            suspect.group_is_kept()
            self._to_retry.appendleft(suspect)
            self._take_back_progress(done.task.unit)  # the whole unit reports its kept rows again
        else:
            self._commit(done)

    def _commit(self, done: Done) -> None:
        unit = done.task.unit
        self._suspects.pop(unit, None)
        self._progress.pop(unit, None)
        self._mine.discard(unit)
        self.job.claims.release(unit)
        self.committed += 1
        self.job.on_done(done)

    def gave_back(self, worker: int) -> None:
        """A worker ended in good order before its tasks were done: they go back to the front, no blame on them."""
        for task in reversed(self._in_flight.pop(worker, [])):
            self._take_back_progress(task.unit)
            if suspect := self._suspects.get(task.unit):
                self._to_retry.appendleft(suspect)
            else:
                self._waiting.setdefault(self.job.shape_of(task.unit), deque()).appendleft(task.unit)

    def died(self, worker: int) -> None:
        """A worker died. Raises JobStoppedError if there is no use in starting it once more."""
        tasks = self._in_flight.pop(worker, [])
        for task in reversed(tasks):
            self._take_back_progress(task.unit)
            suspect = self._suspects.get(task.unit) or _Suspect(task.unit, self.job.inputs_of(task.unit))
            self._suspects[task.unit] = suspect
            self._to_retry.appendleft(suspect)
            if suspect.died():
                self._count_poisonous(worker, suspect)
        self._deaths_without_task[worker] += not tasks
        if self._deaths_without_task[worker] >= DEATHS_TO_GIVE_UP:
            raise JobStoppedError(
                f"worker {worker} died {DEATHS_TO_GIVE_UP} times in a row before it took up any work; see its output"
                " above; if memory is short, use fewer workers; then run the same command"
            )

    def _count_poisonous(self, worker: int, suspect: _Suspect) -> None:
        self._poisonous_in_a_row[worker] += 1
        if (count := self._poisonous_in_a_row[worker]) >= self.job.max_poisonous_in_a_row:
            raise JobStoppedError(
                f"{count} inputs in a row killed worker {worker}, the last: input {suspect.poisonous[-1]} of unit"
                f" {suspect.unit}, which was not committed; that is more likely its device, its memory or its model:"
                " see its output above, mend that and run the same command"
            )
