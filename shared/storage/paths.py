"""Where a path leads: this machine's disk, or by fsspec (`s3://`, `memory://`, …) somewhere else.

A local path is a `pathlib.Path`, a remote one an `upath.UPath`, which offers the same methods. Object stores write
whole objects, so what needs renames, locks or appending exists on disk only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import pyarrow as pa

CACHE = "EMU3_CACHE"


def as_path(location: str | Path) -> Path:
    """A path of this machine, or a remote one by its URL; listings are never cached, others write there too."""
    if not isinstance(location, str) or "://" not in location:
        return Path(location)
    if location.startswith("file://"):
        return Path(unquote(urlsplit(location).path))
    from upath import UPath

    return cast(Path, UPath(location, use_listings_cache=False))


def is_local(path: Path) -> bool:
    return isinstance(path, Path)


def absolute(location: str) -> str:
    """A location that means the same in every process of this machine, wherever that was started."""
    return location if "://" in location or location == "-" else os.path.abspath(location)


def make_directory(path: Path) -> None:
    """With its parents; object stores have no directories."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


def read_buffer(path: Path) -> pa.Buffer:
    """A file as one buffer: memory-mapped on disk, read whole from elsewhere."""
    if is_local(path) and path.stat().st_size:
        return pa.memory_map(str(path)).read_buffer()
    return pa.py_buffer(path.read_bytes())


def names_in(directory: Path) -> list[str]:
    """Names of what is in a directory, in no order; none if it is not there."""
    try:
        if is_local(directory):
            return [entry.name for entry in os.scandir(directory)]
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def sha256_of(path: Path) -> str:
    """Hex digest of a file, or `missing`."""
    return hashlib.sha256(read_buffer(path)).hexdigest() if path.is_file() else "missing"


def local_directory(location: str | Path) -> Path:
    """A directory to read from disk: itself, or a copy of a remote one under `$EMU3_CACHE` (~/.cache/emu3-relay).

    The copy is made again when name, size or version of a remote file changes.
    """
    remote: Any = as_path(location)
    if is_local(remote):
        return cast(Path, remote)
    files = {path: remote.fs.info(path) for path in sorted(remote.fs.find(remote.path))}
    version = [(path, info["size"], str(info.get("ETag", info.get("created")))) for path, info in files.items()]
    name = hashlib.sha256(repr((str(remote), version)).encode()).hexdigest()[:24]
    copy = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "emu3-relay") / f"{remote.name}-{name}"
    if files and not copy.is_dir():
        temporary = copy.with_name(f"{copy.name}.{os.getpid()}.tmp")
        for path in files:
            target = temporary / os.path.relpath(path, remote.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            remote.fs.get_file(path, str(target))
        os.rename(temporary, copy)
    return copy if files else Path(str(remote))
