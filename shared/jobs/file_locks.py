"""Several jobs on one dataset: who works on which unit, and who may clear away what a killed job left.

Locks are `flock`: the kernel drops them when a process dies, however it dies. They spare work and keep the
directory tidy; correctness rests on the commit records alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.storage.paths import is_local, make_directory


def leave() -> None:
    """For jobs that cannot know whether they are alone: machines may share a disk but no locks. Sweeps nothing."""


@contextmanager
def job_lock(dataset: Path, sweep: Callable[[], None] = leave) -> Iterator[None]:
    """Held by every job while it runs; makes the directory. `sweep` is called before and after, if no other runs.

    In an object store nobody can know whether another job runs: nothing is swept there.
    """
    if not is_local(dataset):
        yield
        return
    make_directory(dataset)
    descriptor = os.open(dataset / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _sweep_if_alone(descriptor, sweep)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
        _sweep_if_alone(descriptor, sweep)
    finally:
        os.close(descriptor)


def _sweep_if_alone(descriptor: int, sweep: Callable[[], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    sweep()


class Claim:
    """A unit that this process works on."""

    def __init__(self, descriptor: int, path: Path):
        self._descriptor = descriptor
        self._path = path

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_claim(path: Path) -> Claim | None:
    """Claims a unit, or returns None while another live process holds it."""
    path.parent.mkdir(exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                return Claim(descriptor, path)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # released and removed between open and lock: open the new file
        os.close(descriptor)
