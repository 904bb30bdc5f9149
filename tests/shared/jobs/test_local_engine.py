"""Jobs in this process and in several: kills, poison inputs, errors, signals, and the death of the parent."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shared.errors import ConfigMismatchError, Interrupted, JobStoppedError, RefusedInput, RelayError, UsageError
from shared.jobs import local_engine, watchdog, worker_pool
from shared.jobs.job import ClaimStatus, Job, Task, TaskResult, WorkerContext
from shared.jobs.local_engine import run_in_process, run_local, visible_device
from shared.jobs.signals import StopFlag
from shared.jobs.worker_process import picklable
from tests.support.toy_results import assert_all_done, committed, has_ended, started, wait_until
from tests.support.toy_worker import PATIENCE_S, OwnClaims, Toy, ToyCatalog, toy_job


def test_in_this_process(tmp_path: Path) -> None:
    done: list[TaskResult] = []
    progress: list[int] = []
    run_in_process(toy_job(Toy(tmp_path), 7, done, progress))
    assert_all_done(tmp_path, 7, set(), done, progress)
    assert started(tmp_path) == [os.getpid()]


def test_without_units_no_worker_is_made(tmp_path: Path) -> None:
    run_in_process(toy_job(Toy(tmp_path, dies_at_start=True), 0, [], []))
    run_local(toy_job(Toy(tmp_path, dies_at_start=True), 0, [], []), workers=2)
    assert started(tmp_path) == []


def test_in_this_process_stopped_by_a_signal(tmp_path: Path) -> None:
    """Units 0 and 2 have one shape, and the toy worker does the later one first."""
    stop = StopFlag()
    job = toy_job(Toy(tmp_path, endless_units=(2,)), 3, [], [], stop)

    def stop_in_the_endless_unit() -> None:
        wait_until(lambda: list(tmp_path.glob("*.endless")))
        stop.set("SIGTERM")

    thread = threading.Thread(target=stop_in_the_endless_unit)
    thread.start()
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM: 1 units committed, .* kept; the same command resumes"):
        run_in_process(job)
    thread.join()
    assert sorted(committed(tmp_path)) == [2]


def test_in_this_process_units_of_other_jobs_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "RETRY_HELD_ELSEWHERE_S", 0.01)
    answers = iter([ClaimStatus.HELD_ELSEWHERE, ClaimStatus.HELD_ELSEWHERE, ClaimStatus.ACQUIRED])

    class Contended(OwnClaims):
        def claim(self, unit: int) -> ClaimStatus:
            return next(answers)

        def release(self, unit: int) -> None:
            pass

    class Plain:
        def __init__(self, context: WorkerContext):
            pass

        def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
            return (TaskResult(task) for task in tasks if task)

    done: list[TaskResult] = []
    run_in_process(
        Job(Plain, [5], ToyCatalog(), Contended(), StopFlag(), done.append, wait_for_others=True),
    )
    assert [each.task for each in done] == [Task(5)]


@pytest.mark.parametrize("workers", [1, 3])
def test_each_process_has_one_device_of_the_list(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local_engine.VISIBLE_DEVICES, "4,5,6")
    done: list[TaskResult] = []
    progress: list[int] = []
    run_local(toy_job(Toy(tmp_path), 9, done, progress), workers)
    assert_all_done(tmp_path, 9, set(), done, progress)
    assert {entry["device"] for entry in committed(tmp_path).values()} <= {"4", "5", "6"}
    assert os.environ[local_engine.VISIBLE_DEVICES] == "4,5,6"
    assert os.getpid() not in started(tmp_path)
    assert all(has_ended(pid) for pid in started(tmp_path))


def test_devices_are_numbered_without_a_list_and_never_shared() -> None:
    assert visible_device({}, 3) == "3"
    assert visible_device({local_engine.VISIBLE_DEVICES: "6, 7"}, 1) == "7"
    with pytest.raises(UsageError, match="use 2 workers"):
        visible_device({local_engine.VISIBLE_DEVICES: "6,7"}, 2)


@pytest.mark.parametrize("seed", range(2))
def test_workers_killed_at_random_moments(seed: int, tmp_path: Path) -> None:
    """After five random deaths, no unit is lost, done twice or blamed."""
    chance, units, kills = random.Random(seed), 40, 5  # a sixth death could turn an input of one unit into poison
    toy = Toy(tmp_path, held_from=units // 2)
    done: list[TaskResult] = []
    progress: list[int] = []

    def alive() -> list[int]:
        return sorted(pid for pid in started(tmp_path) if not has_ended(pid))

    def kill_some() -> None:
        for _ in range(kills):
            wait_until(alive)
            time.sleep(chance.uniform(0, 0.01))
            victim = chance.choice(alive())
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(has_ended, victim))
        wait_until(lambda: len(started(tmp_path)) == 2 + kills)
        toy.release()

    killer = threading.Thread(target=kill_some)
    killer.start()
    run_local(toy_job(toy, units, done, progress), workers=2, backoff_s=0)
    killer.join()
    assert_all_done(tmp_path, units, set(), done, progress)


def test_exactly_the_poison_inputs_are_quarantined(tmp_path: Path) -> None:
    """Two of the eight inputs of one unit are poison, among eight units."""
    done: list[TaskResult] = []
    progress: list[int] = []
    poison = (9, 14)
    run_local(toy_job(Toy(tmp_path, poison), 8, done, progress), workers=2, backoff_s=0)
    assert_all_done(tmp_path, 8, set(poison), done, progress)


def test_an_error_for_the_user_stops_all_workers_and_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConfigMismatchError, match="unit 3 has other settings"):
        run_local(toy_job(Toy(tmp_path, refused_unit=3, endless_units=(4,)), 8, [], []), workers=2)
    assert all(has_ended(pid) for pid in started(tmp_path))
    assert 4 in committed(tmp_path), "the other worker was asked to exit, not killed"


def test_an_error_with_several_arguments_is_sent_as_a_plain_one() -> None:
    error = picklable(RefusedInput("truncated", "12 of 40 bytes"))
    assert type(error) is RelayError
    assert str(error) == "truncated: 12 of 40 bytes"


def test_any_other_exception_is_a_death_with_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No input of the unit can be computed: the job stops and refers to the output of the worker."""
    job = replace(toy_job(Toy(tmp_path, broken_unit=0), 1, [], []), max_consecutive_poison=1)
    with pytest.raises(JobStoppedError, match="1 inputs in a row killed worker 0"):
        run_local(job, workers=1, backoff_s=0)
    assert "ZeroDivisionError: unit 0" in capfd.readouterr().err


def test_workers_that_die_before_they_are_ready_stop_the_job(tmp_path: Path) -> None:
    with pytest.raises(JobStoppedError, match=r"worker \d died 3 times in a row before it started any work"):
        run_local(toy_job(Toy(tmp_path, dies_at_start=True), 4, [], []), workers=2, backoff_s=0)
    assert committed(tmp_path) == {}


def test_a_worker_that_receives_sigterm_alone_saves_what_it_has_and_is_replaced(tmp_path: Path) -> None:
    done: list[TaskResult] = []
    job = toy_job(Toy(tmp_path, endless_units=(0,)), 3, done, [])

    def end_the_worker() -> None:
        wait_until(lambda: list(tmp_path.glob("*.endless")))
        os.kill(started(tmp_path)[0], signal.SIGTERM)

    thread = threading.Thread(target=end_the_worker)
    thread.start()
    run_local(job, workers=1)
    thread.join()
    assert sorted(each.task.unit for each in done) == [0, 1, 2]
    assert len(started(tmp_path)) == 2


def start_program(folder: Path) -> subprocess.Popen[str]:
    """Start a job with two workers, both in an endless unit."""
    command = [sys.executable, "-m", "tests.support.toy_worker", str(folder), "12", "2"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    wait_until(lambda: len(list(folder.glob("*.endless"))) == 2 or process.poll() is not None)
    assert not any(has_ended(pid) for pid in started(folder))
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("is_for_all", [True, False])
def test_after_a_signal_workers_save_what_they_have(number: signal.Signals, is_for_all: bool, tmp_path: Path) -> None:
    """The signal goes to the parent or to its whole group, as from Ctrl-C or a scheduler."""
    process = start_program(tmp_path)
    before = len(committed(tmp_path))
    (os.killpg if is_for_all else os.kill)(process.pid, number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in stderr
    kept = len(committed(tmp_path))
    assert kept == before + 2, "each worker finishes its unit when it is asked to stop"
    assert f"Interrupted: stopped by {number.name}: {kept} units committed" in stderr
    assert all(has_ended(pid) for pid in started(tmp_path))


def test_workers_end_soon_after_their_parent_was_killed(tmp_path: Path) -> None:
    process = start_program(tmp_path)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    wait_until(lambda: all(has_ended(pid) for pid in started(tmp_path)))


def test_a_worker_that_hangs_is_killed_and_its_unit_done_by_the_next_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done: list[TaskResult] = []
    progress: list[int] = []
    run_local(toy_job(Toy(tmp_path, hanging_unit=3), 8, done, progress), workers=2, backoff_s=0, limit_s=1.0)
    assert_all_done(tmp_path, 8, set(), done, progress)
    assert "has reported no progress" in capfd.readouterr().err


def test_a_suspended_worker_is_killed_and_its_units_done_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "SUSPENDED_LIMIT_S", 0.3)
    toy = Toy(tmp_path, held_from=2)
    done: list[TaskResult] = []
    progress: list[int] = []

    def suspend_one() -> None:
        wait_until(lambda: len(started(tmp_path)) == 2)
        os.kill(started(tmp_path)[0], signal.SIGSTOP)
        wait_until(lambda: len(started(tmp_path)) == 3)
        toy.release()

    thread = threading.Thread(target=suspend_one)
    thread.start()
    run_local(toy_job(toy, 8, done, progress), workers=2, backoff_s=0)
    thread.join()
    assert_all_done(tmp_path, 8, set(), done, progress)
    assert "has been suspended" in capfd.readouterr().err


def test_a_signal_ends_a_job_although_a_worker_is_suspended(tmp_path: Path) -> None:
    process = start_program(tmp_path)
    os.kill(started(tmp_path)[0], signal.SIGSTOP)
    process.terminate()
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Interrupted: stopped by SIGTERM" in stderr
    assert all(has_ended(pid) for pid in started(tmp_path))


def test_a_suspended_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    process = start_program(tmp_path)
    for pid in started(tmp_path):
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    wait_until(lambda: all(has_ended(pid) for pid in started(tmp_path)))
