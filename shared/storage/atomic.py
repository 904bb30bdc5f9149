"""Files that are there whole or not at all, on disk and in object stores; on disk directories too."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.storage.paths import is_local


def temporary_beside(path: Path) -> Path:
    """A name in the same directory that no other attempt uses; ends in `.tmp`."""
    return path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_file(path: Path, data: bytes) -> None:
    """Replaces a file: temporary name, fsync, rename, fsync of the directory; an object is put whole."""
    if not is_local(path):
        path.write_bytes(data)
        return
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def create_file(path: Path, data: bytes) -> bool:
    """Creates a file whole. Returns False, and changes nothing, if it is already there."""
    if not is_local(path):
        return _create_object(path, data)
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def _create_object(path: Any, data: bytes) -> bool:
    """By a conditional put where the store has one; elsewhere by looking first, which two writers may do at once."""
    try:
        path.fs.pipe_file(path.path, bytes(data), mode="create")
    except FileExistsError:
        return False
    return True


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Replaces a directory: temporary name, fsync, rename. A failure leaves the old one in its place."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = temporary_beside(directory), temporary_beside(directory)
    try:
        temporary.mkdir()
        for name, content in files.items():
            write_file(temporary / name, content)
        if directory.exists():
            os.rename(directory, aside)
        try:
            os.rename(temporary, directory)
        except BaseException:
            if aside.exists():
                os.rename(aside, directory)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Under its own name it is whole or gone."""
    aside = temporary_beside(directory)
    os.rename(directory, aside)
    shutil.rmtree(aside, ignore_errors=True)  # a sweep takes what is left


def sync_directory(directory: Path) -> None:
    """Makes renames and links in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(path: Path, data: bytes) -> Path:
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary
