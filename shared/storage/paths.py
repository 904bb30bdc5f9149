"""Paths on the local disk and, through fsspec, elsewhere (`s3://`, `memory://`, …).

A local path is a `pathlib.Path`, a remote one an `upath.UPath`, which has the same methods. Object stores write whole
objects, so whatever needs renames, locks or appending exists on disk only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from shared.errors import UsageError

CACHE_VARIABLE = "EMU3_CACHE"
MISSING = "missing"
_BLOCK_BYTES = 1 << 20


def as_path(location: str | Path) -> Path:
    """Return the path of a file name or URL. Remote listings are never cached, because other jobs write too."""
    if not isinstance(location, str):
        return location
    if "://" not in location:
        return Path(location)
    if location.startswith(("file://", "local://")):
        return Path(unquote(urlsplit(location).path))
    from upath import UPath

    return cast(Path, UPath(location, use_listings_cache=False))


def is_local(path: Path) -> bool:
    return isinstance(path, Path)


def absolute(location: str) -> str:
    """Return a location that is valid in every process of this machine, whatever its working directory."""
    return location if "://" in location or location == "-" else os.path.abspath(location)


def make_directory(path: Path) -> None:
    """Create a directory with its parents; object stores have no directories.

    Raises UsageError for a link to a directory that does not exist.
    """
    if is_local(path):
        check_link(path)
        path.mkdir(parents=True, exist_ok=True)


def check_link(path: Path) -> None:
    """Raise UsageError if a local path, or a folder that it is in, is a link whose target does not exist."""
    if not is_local(path) or path.exists():
        return
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            raise UsageError(
                f"{link}: is a link to {os.readlink(link)}, which does not exist; create that folder first"
            )


def is_file_name(name: str) -> bool:
    """Whether a name, read from a file that anyone may have written, is that of a file in the same folder."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory, in no particular order; none if the directory does not exist."""
    try:
        if is_local(directory):
            return [entry.name for entry in os.scandir(directory)]
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def file_identity(path: Path) -> tuple[object, ...]:
    """Return values that differ when a file is replaced or changed; (-1,) if there is none."""
    remote: Any = path
    try:
        if not is_local(path):
            return _object_version(remote.fs.info(remote.path))
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return (-1,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _object_version(info: Mapping[str, Any]) -> tuple[object, ...]:
    return info["size"], str(next((info[name] for name in ("ETag", "mtime", "created") if info.get(name)), None))


def sha256_of(path: Path, on_block: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file, 64 hex digits, or `missing`; `on_block` receives the size of each part in bytes."""
    if not path.is_file():
        return MISSING
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
                if on_block:
                    on_block(len(block))
    except FileNotFoundError:  # it was removed meanwhile
        return MISSING
    return digest.hexdigest()


def checksum_problem(path: Path, expected: str | None) -> str | None:
    """Return how a file differs from its SHA-256, None if it does not."""
    if (found := sha256_of(path)) == expected:
        return None
    return f"{path}: missing" if found == MISSING else f"{path}: sha256 {found[:12]} expected {str(expected)[:12]}"


def local_directory(location: str | Path) -> Path:
    """Return a local directory: `location` itself, or a copy of it in `$EMU3_CACHE` (default ~/.cache/emu3-relay).

    A remote directory is copied again when the name, size or version of one of its files changes.
    """
    remote: Any = as_path(location)
    if is_local(remote):
        return cast(Path, remote)
    files = {path: remote.fs.info(path) for path in sorted(remote.fs.find(remote.path))}
    if not files:
        return Path(str(remote))
    version = [(path, *_object_version(info)) for path, info in files.items()]
    name = hashlib.sha256(repr((str(remote), version)).encode()).hexdigest()[:24]
    cache = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "emu3-relay")
    copy = cache / f"{remote.name}-{name}"
    if not copy.is_dir():
        _download(remote, list(files), copy)
    return copy


def _download(remote: Any, files: list[str], copy: Path) -> None:
    temporary = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
    for path in files:
        target = temporary / os.path.relpath(path, remote.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        remote.fs.get_file(path, str(target))
    os.rename(temporary, copy)
