"""How long a worker may be silent: it depends on what was seen, and the clock stands still while the pool does."""

from __future__ import annotations

import pytest

from shared.jobs import watchdog
from shared.jobs.watchdog import FIRST_LIMIT_S, IDLE_LIMIT_S, LIMIT_FACTOR, MIN_LIMIT_S, SUSPENDED_LIMIT_S, Watchdog

SHAPE = "shape"


class Clock:
    """The clock of the pool, advanced by hand, and what the system says about process 1."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.is_suspended = False
        self.cpu_s: float | None = 0.0

    def pass_time(self, dog: Watchdog, seconds: float, cpu_s: float = 1.0) -> None:
        """Tick once a second; the process takes `cpu_s` of each."""
        for _ in range(round(seconds)):
            self.now_s += 1.0
            self.cpu_s = None if self.cpu_s is None else self.cpu_s + cpu_s
            dog.tick()
            dog.problem(0, {SHAPE})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock.now_s)
    monkeypatch.setattr(watchdog, "is_suspended", lambda pid: clock.is_suspended)
    monkeypatch.setattr(watchdog, "cpu_time_s", lambda pid: clock.cpu_s)
    return clock


def watching(limit_s: float | None = None, pid: int | None = 1) -> Watchdog:
    dog = Watchdog(limit_s)
    dog.watch(0, pid)
    return dog


def test_a_worker_has_an_hour_for_the_first_unit_of_a_shape(clock: Clock) -> None:
    dog = watching()
    clock.pass_time(dog, FIRST_LIMIT_S)
    assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(dog, 1)
    assert dog.problem(0, {SHAPE}) == "has reported no progress for 3600 s"


def test_afterwards_the_limit_follows_the_longest_silence(clock: Clock) -> None:
    dog = watching()
    assert dog.limit_s({SHAPE}) == FIRST_LIMIT_S
    clock.pass_time(dog, 5)
    dog.note_message(0)
    dog.finished(SHAPE)
    assert dog.limit_s({SHAPE}) == MIN_LIMIT_S
    assert dog.limit_s({SHAPE, "another"}) == dog.limit_s(()) == FIRST_LIMIT_S
    clock.pass_time(dog, 400)
    dog.note_message(0)
    assert dog.limit_s({SHAPE}) == LIMIT_FACTOR * 400
    clock.pass_time(dog, LIMIT_FACTOR * 400)
    assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(dog, 1)
    assert dog.problem(0, {SHAPE})


def test_a_worker_without_tasks_need_not_report(clock: Clock) -> None:
    dog = watching(limit_s=10)
    for _ in range(100):
        clock.pass_time(dog, 9)
        dog.note_idle(0)
    assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(dog, 11)
    assert dog.problem(0, {SHAPE}) == "has reported no progress for 10 s"
    assert dog.problem(0, ()) is None, "a worker that loads has more time"
    dog.forget(0)
    assert dog.problem(0, {SHAPE}) is None


def test_time_in_which_the_pool_itself_was_suspended_does_not_count(clock: Clock) -> None:
    dog = watching(limit_s=10)
    clock.now_s += 100_000
    dog.tick()
    assert dog.problem(0, {SHAPE}) is None


def test_a_suspended_process_is_found_soon(clock: Clock) -> None:
    dog = watching()
    clock.pass_time(dog, 1000)
    clock.is_suspended = True
    clock.pass_time(dog, SUSPENDED_LIMIT_S)
    assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(dog, 1)
    assert dog.problem(0, {SHAPE}) == "has been suspended for 15 s"


def test_a_process_that_was_suspended_and_continues_is_left_alone(clock: Clock) -> None:
    dog = watching()
    for _ in range(10):
        clock.is_suspended = not clock.is_suspended
        clock.pass_time(dog, SUSPENDED_LIMIT_S - 1)
        assert dog.problem(0, {SHAPE}) is None


def test_a_process_that_neither_computes_nor_reports_is_found(clock: Clock) -> None:
    dog = watching()
    dog.finished(SHAPE)
    clock.pass_time(dog, IDLE_LIMIT_S, cpu_s=0.0)
    dog.note_message(0)
    clock.pass_time(dog, IDLE_LIMIT_S, cpu_s=0.0)
    assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(dog, 1, cpu_s=0.0)
    assert dog.problem(0, {SHAPE}) == "has reported no progress and taken no CPU time for 300 s"


def test_a_process_may_wait_for_a_compiler_or_as_long_as_it_is_given(clock: Clock) -> None:
    """The time of compilers, which are other processes, is not its own."""
    compiling, patient = watching(), watching(limit_s=2 * IDLE_LIMIT_S)
    patient.finished(SHAPE)
    for dog in (compiling, patient):
        clock.pass_time(dog, IDLE_LIMIT_S + 1, cpu_s=0.0)
        assert dog.problem(0, {SHAPE}) is None
    clock.pass_time(patient, IDLE_LIMIT_S, cpu_s=0.0)
    assert patient.problem(0, {SHAPE}) == "has reported no progress and taken no CPU time for 600 s"


def test_a_process_whose_cpu_time_is_unknown_is_not_called_idle(clock: Clock) -> None:
    dog, clock.cpu_s = watching(), None
    clock.pass_time(dog, FIRST_LIMIT_S)
    assert dog.problem(0, {SHAPE}) is None
