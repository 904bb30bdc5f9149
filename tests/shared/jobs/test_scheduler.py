"""Which worker gets which unit; every unit is committed once, whatever dies; exactly the poison inputs are found."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import JobStoppedError
from shared.jobs.job import ClaimStatus, Job, Task, TaskResult, Worker, WorkerContext
from shared.jobs.scheduler import Scheduler
from shared.jobs.signals import StopFlag
from tests.support.toy_worker import OwnClaims

INPUTS = 8


def no_worker(context: WorkerContext) -> Worker:
    raise AssertionError("the scheduler starts no worker")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Units with the same number of inputs: input i of unit u has the index 100 u + i."""

    inputs: int
    shapes: str

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return tuple(range(100 * unit, 100 * unit + self.inputs))

    def shape(self, unit: int) -> str:
        return self.shapes[unit] if self.shapes else ""


def job_of(units: Sequence[int], inputs: int = INPUTS, shapes: str = "", **options: object) -> Job:
    """Return a job; the shape of a unit is its letter in `shapes`."""
    settings = {"claims": OwnClaims(), **options}
    return Job(
        make_worker=no_worker,
        units=units,
        catalog=Catalog(inputs, shapes),
        stop=StopFlag(),
        **settings,  # type: ignore[arg-type]
    )


def units_for(scheduler: Scheduler, *workers: int) -> list[int | None]:
    """Return the units that these workers get if they ask in this order."""
    tasks = [scheduler.next_task(worker) for worker in workers]
    return [task.unit if task else None for task in tasks]


def do_one(scheduler: Scheduler, worker: int) -> Task:
    task = scheduler.next_task(worker)
    assert task is not None
    scheduler.finished(worker, TaskResult(task))
    return task


def die_with(scheduler: Scheduler, worker: int) -> Task:
    task = scheduler.next_task(worker)
    assert task is not None
    scheduler.died(worker)
    return task


def test_a_worker_has_at_most_two_units_in_flight() -> None:
    scheduler = Scheduler(job_of(range(5)))
    assert units_for(scheduler, 0, 0, 0, 1) == [0, 1, None, 2]
    scheduler.finished(0, TaskResult(Task(0)))
    assert units_for(scheduler, 0, 0) == [3, None]


def test_a_worker_stays_with_a_shape_and_the_next_one_takes_the_shape_with_most_units_per_worker() -> None:
    scheduler = Scheduler(job_of(range(9), shapes="abbbbbcca", max_in_flight=9))
    assert units_for(scheduler, 0, 0) == [1, 2]
    # left: a 2, b 3 shared by two, c 2; the first in the plan of those that are equal
    assert units_for(scheduler, 1, 1, 1) == [0, 8, 6]
    # left: b 3 shared by two, c 1 shared by two
    assert units_for(scheduler, 2, 0, 2, 2, 2) == [3, 4, 5, 7, None]


def test_units_are_stolen_after_all_own_units_whatever_their_shape() -> None:
    scheduler = Scheduler(job_of([0, 1], shapes="abaa", steal_units=[2, 3], max_in_flight=9))
    assert units_for(scheduler, 0, 0, 0, 0, 0) == [0, 1, 2, 3, None]


class ClaimedElsewhere(OwnClaims):
    """Another job has committed unit 0 and holds unit 1."""

    def claim(self, unit: int) -> ClaimStatus:
        return {0: ClaimStatus.COMMITTED, 1: ClaimStatus.HELD_ELSEWHERE}.get(unit) or super().claim(unit)


def test_units_of_other_jobs_are_skipped() -> None:
    claims = ClaimedElsewhere()
    scheduler = Scheduler(job_of(range(4), claims=claims))
    assert units_for(scheduler, 0, 0) == [2, 3]
    assert claims.held == {2, 3}
    scheduler.finished(0, TaskResult(Task(3)))
    scheduler.finished(0, TaskResult(Task(2)))
    assert claims.held == set()
    assert scheduler.is_finished
    assert scheduler.committed == 2


def test_units_of_other_jobs_are_tried_again_if_the_job_waits_for_them() -> None:
    scheduler = Scheduler(job_of(range(2), claims=ClaimedElsewhere(), wait_for_others=True))
    for _ in range(2):
        assert scheduler.next_task(0) is None
        assert scheduler.is_waiting_for_others
        assert not scheduler.is_finished
        scheduler.retry_held_elsewhere()
    scheduler.job.claims.claim = lambda unit: ClaimStatus.COMMITTED  # type: ignore[method-assign]
    assert scheduler.next_task(0) is None
    assert scheduler.is_finished


def test_after_a_death_units_are_tried_one_by_one_before_all_others() -> None:
    scheduler = Scheduler(job_of(range(5)))
    assert units_for(scheduler, 0, 0, 1) == [0, 1, 2]
    scheduler.died(0)
    assert units_for(scheduler, 1) == [3], "a busy worker continues with units that killed no worker"
    assert units_for(scheduler, 0, 0) == [0, None]
    scheduler.finished(0, TaskResult(Task(0)))
    assert units_for(scheduler, 0, 0) == [1, None]
    scheduler.finished(0, TaskResult(Task(1)))
    assert units_for(scheduler, 0) == [4]


def test_tasks_of_a_worker_that_exits_in_good_order_go_back_to_the_front() -> None:
    scheduler = Scheduler(job_of(range(5)))
    for _ in range(4):
        assert units_for(scheduler, 0, 0) == [0, 1]
        scheduler.returned(0)
    assert [do_one(scheduler, 0).unit for _ in range(5)] == [0, 1, 2, 3, 4]
    assert scheduler.is_finished


def test_a_unit_that_kills_twice_is_tried_in_halves_down_to_the_one_input() -> None:
    """Input 102 of 100 … 107 is poison."""
    scheduler = Scheduler(job_of([1]))
    tasks = [die_with(scheduler, 0), die_with(scheduler, 0)]
    tasks += [die_with(scheduler, 0), do_one(scheduler, 0)]
    tasks += [die_with(scheduler, 0), die_with(scheduler, 0), die_with(scheduler, 0)]
    tasks += [do_one(scheduler, 0) for _ in range(3)]
    assert tasks == [
        *[Task(1), Task(1)],
        Task(1, subset=(100, 101, 102, 103)),
        Task(1, subset=(100, 101)),
        Task(1, subset=(102, 103)),
        *[Task(1, subset=(102,)), Task(1, subset=(102,))],
        Task(1, subset=(103,)),
        Task(1, subset=(104, 105, 106, 107)),
        Task(1, poison=(102,)),
    ]
    assert scheduler.is_finished


def test_the_only_input_of_a_unit_is_poison_after_three_deaths() -> None:
    scheduler = Scheduler(job_of([3], inputs=1))
    tasks = [die_with(scheduler, 0) for _ in range(3)]
    assert tasks == [Task(3), Task(3), Task(3, subset=(300,))]
    assert do_one(scheduler, 0) == Task(3, poison=(300,))


@pytest.mark.parametrize("inputs", [0, 1, 5])
def test_a_unit_whose_inputs_can_be_computed_but_not_the_whole_stops_the_job(inputs: int) -> None:
    scheduler = Scheduler(job_of([7], inputs=inputs))

    def do_parts_and_die_of_the_whole() -> None:
        while task := scheduler.next_task(0):
            if task.subset:
                scheduler.finished(0, TaskResult(task))
            else:
                scheduler.died(0)

    with pytest.raises(JobStoppedError, match="unit 7: its worker died 3 times"):
        do_parts_and_die_of_the_whole()


def test_a_worker_that_dies_three_times_without_a_task_stops_the_job() -> None:
    scheduler = Scheduler(job_of(range(3)))
    scheduler.died(0)
    scheduler.died(0)
    do_one(scheduler, 0)
    for worker in (0, 1, 0, 1):
        scheduler.died(worker)
    with pytest.raises(JobStoppedError, match="worker 1 died 3 times in a row"):
        scheduler.died(1)


def test_a_worker_that_everything_kills_stops_the_job_after_eight_inputs() -> None:
    """A broken device condemns no more inputs than that, and their unit is not committed."""
    scheduler = Scheduler(job_of([0], inputs=64))
    tasks: list[Task] = []

    def die_of_everything() -> None:
        while task := scheduler.next_task(0):
            tasks.append(task)
            scheduler.died(0)

    with pytest.raises(JobStoppedError, match=r"8 inputs in a row killed worker 0, the last: input 7 of unit 0"):
        die_of_everything()
    assert [task.subset for task in tasks if len(task.subset) == 1] == [(index // 2,) for index in range(16)]
    assert scheduler.committed == 0


def test_progress_of_uncommitted_work_is_undone() -> None:
    counts: list[int] = []
    scheduler = Scheduler(job_of([0], inputs=2, on_progress=counts.append))
    for _ in range(2):
        scheduler.next_task(0)
        scheduler.progressed(0, 1)
        scheduler.died(0)
    for _ in range(2):
        task = scheduler.next_task(0)
        assert task is not None
        assert len(task.subset) == 1
        scheduler.progressed(0, 1)
        scheduler.finished(0, TaskResult(task))
    assert sum(counts) == 0
    task = scheduler.next_task(0)
    scheduler.progressed(0, 2)
    assert task is not None
    scheduler.finished(0, TaskResult(task))
    assert counts == [1, -1, 1, -1, 1, -1, 1, -1, 2]


class Simulation:
    """Workers that do their tasks in random order and die of poison or by chance, and what they write to disk."""

    def __init__(self, scheduler: Scheduler, poison: set[int], workers: int, chance: random.Random):
        self.scheduler, self.poison, self.chance = scheduler, poison, chance
        self.tasks: dict[int, list[Task]] = {worker: [] for worker in range(workers)}
        self.kept: dict[int, set[int]] = {}
        self.committed: Counter[int] = Counter()
        self.quarantined: set[int] = set()
        self.deaths_by_poison: Counter[int] = Counter()
        self.deaths_by_chance = 12

    def run(self) -> None:
        while not self.scheduler.is_finished:
            worker = self.chance.randrange(len(self.tasks))
            tasks = self.tasks[worker]
            if self.chance.random() < 0.7 and (task := self.scheduler.next_task(worker)):
                assert task.unit not in {each.unit for tasks in self.tasks.values() for each in tasks}
                tasks.append(task)
            elif tasks:
                self.step(worker, self.chance.choice(tasks))

    def step(self, worker: int, task: Task) -> None:
        wanted = set(task.subset or self.scheduler.job.catalog.src_indices(task.unit)) - self.kept.get(task.unit, set())
        if wanted & self.poison - set(task.poison):
            self.deaths_by_poison[task.unit] += 1
            self.die(worker)
        elif self.may_die_by_chance(worker):
            self.deaths_by_chance -= 1
            self.die(worker)
        else:
            self.finish(worker, task)

    def may_die_by_chance(self, worker: int) -> bool:
        """Rule out a task with one input, or with the rest of a unit: two deaths in a row would look like poison."""
        tasks = self.tasks[worker]
        is_crucial = any(len(task.subset) == 1 or task.poison or task.unit in self.kept for task in tasks)
        return self.deaths_by_chance > 0 and not is_crucial and self.chance.random() < 0.1

    def die(self, worker: int) -> None:
        if self.chance.random() < 0.3:
            self.scheduler.returned(worker)
        else:
            self.scheduler.died(worker)
        self.tasks[worker].clear()

    def finish(self, worker: int, task: Task) -> None:
        if task.subset:
            self.kept.setdefault(task.unit, set()).update(task.subset)
        else:
            self.committed[task.unit] += 1
            self.quarantined |= set(task.poison)
        self.tasks[worker].remove(task)
        self.scheduler.finished(worker, TaskResult(task))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_unit_is_committed_once_and_exactly_the_poison_is_quarantined(data: st.DataObject) -> None:
    units, inputs = data.draw(st.integers(1, 8), "units"), data.draw(st.integers(1, 40), "inputs")
    everything = [100 * unit + index for unit in range(units) for index in range(inputs)]
    poison = data.draw(st.sets(st.sampled_from(everything), max_size=10), "poison")
    shapes = data.draw(st.text("abc", min_size=units, max_size=units), "shapes")
    job = job_of(range(units), inputs, shapes, max_consecutive_poison=99, max_in_flight=data.draw(st.integers(1, 3)))
    simulation = Simulation(
        Scheduler(job), poison, data.draw(st.integers(1, 5), "workers"), data.draw(st.randoms(use_true_random=False))
    )
    simulation.run()
    assert simulation.committed == Counter(range(units))
    assert simulation.quarantined == poison
    assert simulation.scheduler.committed == units


@settings(max_examples=100, deadline=None)
@given(inputs=st.integers(1, 64), poison=st.sets(st.integers(0, 63), max_size=12), workers=st.integers(1, 3))
def test_poison_costs_a_number_of_deaths_that_grows_with_the_logarithm_of_the_unit(
    inputs: int, poison: set[int], workers: int
) -> None:
    poison = {index for index in poison if index < inputs}
    job = job_of([0], inputs, max_consecutive_poison=99)
    simulation = Simulation(Scheduler(job), poison, workers, random.Random(0))
    simulation.deaths_by_chance = 0
    simulation.chance.random = lambda: 0.5  # type: ignore[method-assign]  # so that no death becomes an orderly exit
    simulation.run()
    assert simulation.quarantined == poison
    halvings = math.ceil(math.log2(inputs))
    assert simulation.deaths_by_poison[0] <= (2 + len(poison) * (halvings + 1) if poison else 0)
