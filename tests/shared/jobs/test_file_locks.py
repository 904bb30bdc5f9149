"""Locks between processes, and who may delete the leftovers of killed jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from shared.jobs.file_locks import job_lock, locked_against_jobs, try_lock


def _lock_in_child(path: str, results: multiprocessing.SimpleQueue) -> None:
    results.put(try_lock(Path(path)) is not None)


def test_a_lock_excludes_other_processes_until_it_is_released(tmp_path: Path) -> None:
    context, path = multiprocessing.get_context("spawn"), tmp_path / "claims" / "part-000001"
    results = context.SimpleQueue()

    def is_locked_by_child() -> bool:
        child = context.Process(target=_lock_in_child, args=(str(path), results))
        child.start()
        child.join()
        return bool(results.get())

    ours = try_lock(path)
    assert ours is not None
    assert not is_locked_by_child()
    ours.release()
    assert not path.exists()
    assert is_locked_by_child()
    again = try_lock(path)
    assert again is not None, "the lock of a process that died is free"
    again.release()


def test_only_a_job_that_is_alone_sweeps(tmp_path: Path) -> None:
    swept: list[str] = []
    with job_lock(tmp_path, lambda: swept.append("first")):
        assert swept == ["first"]
        with job_lock(tmp_path, lambda: swept.append("second")):
            pass
        assert swept == ["first"]
    assert swept == ["first", "first"]


@pytest.mark.parametrize("name", ["d/.claim", "d.lock"])
def test_an_output_that_a_training_run_or_an_answer_job_uses_is_in_use(name: str, tmp_path: Path) -> None:
    lock = try_lock(tmp_path / name)
    assert lock is not None
    with locked_against_jobs(tmp_path / "d") as is_unused:
        assert not is_unused
    lock.release()
    with locked_against_jobs(tmp_path / "d") as is_unused:
        assert is_unused


def test_while_an_output_is_locked_against_jobs_none_can_use_it(tmp_path: Path) -> None:
    with job_lock(tmp_path / "d"), locked_against_jobs(tmp_path / "d") as is_unused:
        assert not is_unused
    with locked_against_jobs(tmp_path / "d") as is_unused:
        assert is_unused
        assert try_lock(tmp_path / "d/.lock") is None


def test_a_job_that_was_about_to_start_in_a_moved_directory_starts_in_its_successor(tmp_path: Path) -> None:
    """It opens the lock file before the move, and gets the lock after it."""
    directory, swept = tmp_path / "d", list[bool]()
    with job_lock(directory):
        pass
    (tmp_path / "d/old").touch()

    def start() -> None:
        with job_lock(directory, lambda: swept.append((directory / "old").exists())):
            (directory / "new").touch()

    with locked_against_jobs(directory) as is_unused:
        assert is_unused
        job = threading.Thread(target=start)
        job.start()
        while not any("/d/.lock" in os.readlink(link) for link in other_descriptors()):
            assert job.is_alive()
        directory.rename(tmp_path / "moved")
    job.join()
    assert sorted(path.name for path in directory.iterdir()) == [".lock", "new"]
    assert swept == [False, False]


def other_descriptors() -> list[str]:
    """Return the links of all open files but the first one with each name."""
    found: dict[str, list[str]] = {}
    for link in os.scandir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.setdefault(os.readlink(link.path), []).append(link.path)
    return [link for links in found.values() for link in links[1:]]
