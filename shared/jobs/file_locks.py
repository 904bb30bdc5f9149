"""Locks between jobs of one machine: who works on which unit, and who may delete what a killed job left behind.

The locks use `flock`, which the kernel releases when a process dies, however it dies. They only avoid duplicate work
and keep the directory tidy; correctness rests on the commit records alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from shared.errors import UsageError
from shared.storage.paths import is_local, make_directory

JOB_LOCK = ".lock"
RUN_LOCK = ".claim"
FILE_LOCK_SUFFIX = ".lock"


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
    descriptor = _shared_lock(directory, sweep)
    try:
        yield
        _sweep_if_alone(descriptor, directory / JOB_LOCK, sweep)
    finally:
        os.close(descriptor)


def _shared_lock(directory: Path, sweep: Callable[[], None] | None) -> int:
    """Acquire the lock of a directory that was not moved away meanwhile."""
    path = directory / JOB_LOCK
    while True:
        make_directory(directory)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _sweep_if_alone(descriptor, path, sweep)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def locked_against_jobs(output: Path) -> Iterator[bool]:
    """Hold all locks by which jobs protect an output, a directory or a file; yield False if a job holds one of them.

    While they are held, no job can start in the output. Nothing is created: what was never locked has no lock file.
    """
    with ExitStack() as stack:
        yield all(_try_existing(path, stack) for path in lock_paths(output))


def lock_paths(output: Path) -> list[Path]:
    """Return the lock files of a dataset or a folder of pictures, of a training run, and of an answer file."""
    return [output / JOB_LOCK, output / RUN_LOCK, output.with_name(output.name + FILE_LOCK_SUFFIX)]


def _try_existing(path: Path, stack: ExitStack) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return True
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep_if_alone(descriptor: int, path: Path, sweep: Callable[[], None] | None) -> None:
    if sweep is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    if _is_at(descriptor, path):
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
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_at(descriptor, path):
            return FileLock(descriptor, path)
        os.close(descriptor)  # released and deleted between open and lock: open the new file


@contextmanager
def only_process(path: Path, held: str) -> Iterator[None]:
    """Hold the lock file at `path`, whose folder is created. Raises UsageError(held) if another process holds it."""
    make_directory(path.parent)
    lock = try_lock(path)
    if lock is None:
        raise UsageError(held)
    try:
        yield
    finally:
        lock.release()


def run_lock(run: Path) -> AbstractContextManager[None]:
    """Return the lock of a training run, as `only_process` does."""
    return only_process(run / RUN_LOCK, f"{run}: another process trains here; wait for it or choose another folder")
