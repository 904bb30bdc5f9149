"""Atomic writes: a file or directory exists completely or not at all, on disk and, for files, in object stores."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shared.storage.paths import is_local, make_directory, names_in

_BLOCK_BYTES = 1 << 20
_TEMPORARY_NAME = re.compile(r".+\.(\d+)-[0-9a-f]{8}\.tmp")


def temporary_path(path: Path) -> Path:
    """Return a unique name in the same directory; it ends in `.tmp`."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def remove_stale_temporaries(directory: Path) -> None:
    """Remove the temporary files in a directory whose writers were killed on this machine."""
    for name in names_in(directory) if is_local(directory) else ():
        match = _TEMPORARY_NAME.fullmatch(name)
        if match and not _is_alive(int(match[1])):
            remove_file(directory / name)


def remove_file(path: Path) -> None:
    """Remove a file that may be gone already. A folder is left alone: it is not ours, whatever its name."""
    if not path.is_dir():
        path.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_file(path: Path, data: bytes) -> None:
    """Create or replace a file: temporary name, fsync, rename, fsync of the directory. An object is put whole."""
    if not is_local(path):
        path.write_bytes(data)
        return
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_hashed_file(directory: Path, stem: str, data: bytes, suffix: str) -> tuple[str, str]:
    """Write a file whose name carries 12 digits of its SHA-256. Returns its name and the SHA-256, 64 hex digits."""
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{stem}.{sha256[:12]}.{suffix}"
    make_directory(directory)
    write_file(directory / name, data)
    return name, sha256


def create_file(path: Path, data: bytes) -> bool:
    """Create a file. Returns False, and changes nothing, if it exists already."""
    if not is_local(path):
        return _create_object(path, data)
    return _link(_write_temporary(path, data), path)


def create_copy(path: Path, source: Path) -> bool:
    """Create a file with the content of a local one, which is not read into memory if both are local."""
    if not is_local(path):
        return _create_object(path, source.read_bytes())
    with source.open("rb") as file:
        return _link(_write_temporary(path, iter(partial(file.read, _BLOCK_BYTES), b"")), path)


def _link(temporary: Path, path: Path) -> bool:
    """Give a durable temporary file its name, unless it is taken; return whether it was not."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def _create_object(path: Any, data: bytes) -> bool:
    """Put an object conditionally; stores without conditional puts check first, which two writers can do at once."""
    try:
        path.fs.pipe_file(path.path, bytes(data), mode="create")
    except FileExistsError:
        return False
    return True


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `directory` when the block ends without an exception.

    The block makes its files durable. On failure the old directory stays. A link to a directory stays a link.
    """
    with directory_beside(directory) as temporary:
        yield temporary
        put_in_place(temporary, directory)


@contextmanager
def directory_beside(directory: Path) -> Iterator[Path]:
    """Yield an empty directory for `put_in_place`; it is deleted with the block if it is not put there."""
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(directory)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(temporary: Path, directory: Path) -> None:
    """Rename a directory whose files are durable; it replaces any other, which stays on failure."""
    directory = directory.resolve()
    previous = temporary_path(directory)
    sync_directory(temporary)
    if directory.exists():
        os.rename(directory, previous)
    try:
        os.rename(temporary, directory)
    except BaseException:
        if previous.exists():
            os.rename(previous, directory)
        raise
    sync_directory(directory.parent)
    shutil.rmtree(previous, ignore_errors=True)


def remove_stale_directories(directory: Path) -> None:
    """Remove what `replaced_directory` left of this directory when its process was killed on this machine."""
    directory = directory.resolve()
    for name in names_in(directory.parent):
        match, path = _TEMPORARY_NAME.fullmatch(name), directory.parent / name
        if (
            match
            and name.startswith(f"{directory.name}.{match[1]}-")
            and path.is_dir()
            and not _is_alive(int(match[1]))
        ):
            shutil.rmtree(path, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Remove a directory, which is complete under its own name until it is gone."""
    temporary = temporary_path(directory)
    os.rename(directory, temporary)
    shutil.rmtree(temporary, ignore_errors=True)  # a later sweep removes the rest


def sync_directory(directory: Path) -> None:
    """Make renames and links in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, data: bytes | Iterator[bytes]) -> Path:
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.writelines(data if isinstance(data, Iterator) else [data])
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
