"""Locks between jobs of one machine: who works on which unit, and who may delete what a killed job left behind.

The locks use `flock`, which the kernel releases when a process dies, however it dies. They only avoid duplicate work
and keep the directory tidy; correctness rests on the commit records alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.storage.paths import is_local, make_directory


@contextmanager
def job_lock(directory: Path, sweep: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the shared lock of a directory while a job runs in it; create the directory if it is missing.

    `sweep` deletes the leftovers of killed jobs. It is called before and after the block, each time only if no other
    job holds the lock. Pass None if machines share the disk but no locks. Object stores have no locks, so nothing is
    swept there.
    """
    if not is_local(directory):
        yield
        return
    make_directory(directory)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _sweep_if_alone(descriptor, sweep)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
        _sweep_if_alone(descriptor, sweep)
    finally:
        os.close(descriptor)


def _sweep_if_alone(descriptor: int, sweep: Callable[[], None] | None) -> None:
    if sweep is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    sweep()


class FileLock:
    """An exclusive lock held by this process; releasing it deletes the file."""

    def __init__(self, descriptor: int, path: Path):
        self._descriptor = descriptor
        self._path = path

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_lock(path: Path) -> FileLock | None:
    """Acquire the lock file at `path`, or return None while another live process holds it."""
    path.parent.mkdir(exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return FileLock(descriptor, path)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # released and deleted between open and lock: open the new file
        os.close(descriptor)
