"""Locks between processes, and who may delete the leftovers of killed jobs."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from shared.jobs.file_locks import job_lock, try_lock


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
