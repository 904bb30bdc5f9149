"""Opening a file of a source, in whole or in part, on the local disk or by fsspec; failures become refusals."""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import RefusedInput, RelayError
from shared.storage.paths import is_local

BLOCK_BYTES = 1 << 20  # requested from an object store at a time
MAX_FETCHED_BYTES = 64 << 20  # parts up to this size are fetched in one request
LFS_POINTER = b"version https://git-lfs"
MAX_POINTER_BYTES = 1024

SPECIAL_FILES = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

logger = logging.getLogger(__name__)


def open_file(
    path: Path, is_fetched: bool = False, block_bytes: int = BLOCK_BYTES, max_bytes: int | None = None
) -> BinaryIO:
    """Open a seekable file; a remote one is fetched in one request or, by default, read in blocks on demand.

    Raises RefusedInput: `missing`, `unreadable`, `empty`, or `too_large` above `max_bytes`, of which one byte more is
    fetched if the server can send a part. So does reading from the file later. Pipes, devices and sockets are refused
    without being opened.
    """
    with refusing_unreadable():
        file = _open_local(path) if is_local(path) else _open_remote(path, is_fetched, block_bytes, max_bytes)
        if not (size_bytes := file.seek(0, os.SEEK_END)):
            file.close()
            raise RefusedInput("empty", "the file has no bytes")
        if max_bytes is not None and size_bytes > max_bytes:
            file.close()
            raise RefusedInput("too_large", f"{size_bytes} bytes, expected at most {max_bytes}")
        file.seek(0)
        if size_bytes <= MAX_POINTER_BYTES and file.read(len(LFS_POINTER)) == LFS_POINTER:
            file.close()
            raise RefusedInput("missing", "a Git LFS pointer in place of the file; run `git lfs pull`")
        file.seek(0)
        return file


def is_file(path: Path) -> bool:
    """Return whether a path is that of a file; False if that cannot be found out."""
    try:
        with refusing_unreadable():
            return path.is_file()
    except RefusedInput:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path is that of a folder; False if that cannot be found out."""
    try:
        with refusing_unreadable():
            return path.is_dir()
    except RefusedInput:
        return False


def open_part(path: Path, offset: int, size_bytes: int) -> BinaryIO:
    """Open a range of bytes of a file as a seekable file.

    Raises RefusedInput: `missing`, `unreadable`, `empty`, or `truncated` if the file ends within the range.
    """
    if not size_bytes:
        raise RefusedInput("empty", "the file has no bytes")
    with refusing_unreadable():
        if not is_local(path) and size_bytes <= MAX_FETCHED_BYTES:
            remote: Any = path
            fetched = io.BytesIO(remote.fs.cat_file(remote.path, start=offset, end=offset + size_bytes))
            _checked_end(fetched, 0, size_bytes)
            fetched.seek(0)
            return fetched
        file = open_file(path)
        part = FilePart(file, offset, _checked_end(file, offset, size_bytes))
        return io.BufferedReader(part, io.DEFAULT_BUFFER_SIZE if is_local(path) else BLOCK_BYTES)


class FilePart(io.RawIOBase):
    """The bytes of `file` from `start` up to, not including, `end`, as a file; closing it closes `file`."""

    def __init__(self, file: BinaryIO, start: int, end: int):
        self._file, self._start, self._size = file, start, end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"seek to {origin + offset}: expected at least 0")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        with refusing_unreadable():
            self._file.seek(self._start + self._position)
            data = self._file.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def refusing_unreadable() -> Iterator[None]:
    """Turn any failure to open or read a file into a refusal of that file, so that it does not stop the job.

    Every object store raises exception types of its own, so all are caught; unusual ones are logged for debugging.
    """
    try:
        yield
    except (RelayError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise RefusedInput("missing", "the file does not exist") from error
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error) or repr(error)) from error
    except Exception as error:
        logger.debug("a file cannot be read", exc_info=True)
        raise RefusedInput("unreadable", f"{error!r:.200}") from error


class _LocalFile(io.FileIO):
    """A file whose read errors are refusals, such as those of a failing disk or a disconnected network drive."""

    def readinto(self, buffer: Any) -> int | None:
        with refusing_unreadable():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with refusing_unreadable():
            return super().readall() or b""


def _open_local(path: Path) -> BinaryIO:
    """Open a regular file. Opening a pipe would wait for its writer, and opening a device may have side effects."""
    check_regular(path.stat())
    file = _LocalFile(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    try:
        check_regular(os.fstat(file.fileno()))  # the file may have been replaced meanwhile
    except RefusedInput:
        file.close()
        raise
    return io.BufferedReader(file)


def check_regular(status: os.stat_result) -> None:
    """Raise RefusedInput, with the kind of file, for everything but regular files."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in SPECIAL_FILES.items() if test(status.st_mode)), "a special file")
        raise RefusedInput("unreadable", f"{kind}, expected a regular file")


def _open_remote(path: Path, is_fetched: bool, block_bytes: int, max_bytes: int | None) -> BinaryIO:
    remote: Any = path
    # fsspec's memory file system returns one shared object, with one position, to every caller.
    if is_fetched or remote.protocol == "memory":
        return io.BytesIO(_fetched(remote, max_bytes))
    file: BinaryIO = remote.fs.open(remote.path, "rb", block_size=block_bytes)
    if not file.seekable():
        return io.BytesIO(file.read(-1 if max_bytes is None else max_bytes + 1))
    return io.BufferedReader(FilePart(file, 0, file.seek(0, os.SEEK_END)))


def _fetched(remote: Any, max_bytes: int | None) -> bytes:
    """Fetch a file, or the part of it that shows that it is too large."""
    if max_bytes is None:
        return bytes(remote.fs.cat_file(remote.path))
    try:
        return bytes(remote.fs.cat_file(remote.path, start=0, end=max_bytes + 1))
    except FileNotFoundError:
        raise
    except Exception:  # an empty file has no such part, and some servers have none of any file
        size_bytes = remote.fs.size(remote.path)
        if size_bytes is None or size_bytes > max_bytes:
            raise
        return bytes(remote.fs.cat_file(remote.path))


def _checked_end(file: BinaryIO, offset: int, size_bytes: int) -> int:
    """Return the end of a part. Raises RefusedInput `truncated` if the file ends before it."""
    if (end := file.seek(0, os.SEEK_END)) < offset + size_bytes:
        file.close()
        raise RefusedInput("truncated", f"{size_bytes} bytes expected at {offset}, the file ends at {end}")
    return offset + size_bytes
