"""Opens a source by its location: a folder, a list, WebDataset tars or tables, on disk or by an fsspec URL."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path, is_local
from vq_stage.sources.files import check_regular, refusing_unreadable
from vq_stage.sources.folder import FolderSource
from vq_stage.sources.folder_kind import open_folder
from vq_stage.sources.folder_walk import FolderWalk, own_folders
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.lists import ListSource, StandardInput
from vq_stage.sources.media_source import MediaSource
from vq_stage.sources.media_types import (
    COMPRESSED_TARS,
    TABLE_SUFFIXES,
    TAR_SUFFIX,
    is_media,
    is_system_name,
    suffix_of,
)
from vq_stage.sources.tables import TableSource
from vq_stage.sources.webdataset import WebDatasetSource

STANDARD_INPUT = "-"
MAX_NAMES = 1_000_000  # that braces stand for
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
LIST_SUFFIXES = (".json", ".jsonl")
EXPECTED = "a folder or files of images or videos, a .json/.jsonl list, .tar shards or .parquet/.arrow tables"


def open_source(location: str | Path, image_root: str | None = None, key: str | None = None) -> MediaSource:
    """Open a source by its path or fsspec URL; items are listed only on iteration.

    The location is a folder, an image or video, a `.json` or `.jsonl` list, a `.tar`, `.parquet` or `.arrow` file,
    several of them by a glob or by braces (`{00000..00099}.tar`), or `-` for paths, URLs or JSON entries on standard
    input, one per line. `image_root` is the folder of a list's relative paths, by default that of the list; `key` is
    the field of a list or the column of a table with the keys. Raises UsageError.
    """
    source = _opened(str(location))
    if isinstance(source, ListSource):
        return replace(source, root=source.root if image_root is None else as_path(image_root), key_field=key)
    if image_root is not None:
        raise UsageError(f"--image-root {image_root}: expected a list as source, got {location}")
    if isinstance(source, TableSource):
        return replace(source, key_column=key)
    if key is not None:
        raise UsageError(f"--key {key}: expected a list or tables as source, got {location}")
    return source


def _opened(location: str) -> MediaSource:
    if not location:
        raise UsageError(f"SOURCE is empty; expected {EXPECTED}")
    if location == STANDARD_INPUT:
        return StandardInput(Path())
    if location.startswith("pipe:"):
        raise UsageError(f"{location}: commands are not executed; expected {EXPECTED}")
    try:
        with refusing_unreadable():
            return _open(location)
    except RefusedInput as refused:
        raise UsageError(f"{location}: cannot be opened: {refused}") from refused


def _open(location: str) -> MediaSource:
    path = as_path(location)
    if path.is_dir():
        return open_folder(path)
    if is_local(path) and path.exists():
        check_regular(path.stat())
    if path.is_file():
        return _open_files(location, path.parent, [path])
    return _open_files(location, _fixed_folder(location), list(expanded(location)))


def _open_files(location: str, root: Path, paths: list[Path]) -> MediaSource:
    """Return the source of these files and folders below `root`. Raises UsageError."""
    if packed := next((path for path in paths if path.name.lower().endswith(COMPRESSED_TARS)), None):
        raise UsageError(f"{packed}: a compressed tar cannot be read in part; decompress it first")
    named = _selected(location, root, paths)
    if not named:
        raise UsageError(f"{location}: no file matches; expected {EXPECTED}")
    suffixes = {suffix_of(name) for name in named}
    first = next(iter(named.values()))
    if len(named) == 1 and suffixes <= set(LIST_SUFFIXES):
        return ListSource(first.parent, first)
    if suffixes == {TAR_SUFFIX}:
        return WebDatasetSource(root, named)
    if suffixes <= set(TABLE_SUFFIXES):
        return TableSource(root, named)
    if all(map(is_media, named)):
        return FolderSource(root, chosen=frozenset(named))
    if len(named) == 1 and first.suffix and not first.is_dir():
        raise UsageError(f"{location}: expected {EXPECTED}; it is none of these")
    return open_folder(root, frozenset(named))


def _selected(location: str, root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their paths below `root`, without what a glob matches only by accident.

    These are files of operating systems and what this program wrote.
    """
    named = {_relative(path, root, location): path for path in paths}
    if not glob.has_magic(location):
        return named
    own = own_folders(root, named)
    return {
        name: path
        for name, path in named.items()
        if (not is_system_name(name) or is_system_name(location)) and not any(map(name.startswith, own))
    }


def expanded(location: str) -> Iterator[Path]:
    """Expand braces, in their order, and globs, sorted. Raises UsageError."""
    try:
        longest = max((abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(location)), default=0)
        names = [] if longest > MAX_NAMES else list(islice(braceexpand(location), MAX_NAMES + 1))
    except ValueError as error:
        raise UsageError(f"{location}: braces: {error}") from error
    if not 0 < len(names) <= MAX_NAMES:
        raise UsageError(f"{location:.200}: braces: more than {MAX_NAMES} names")
    for name in names:
        if not glob.has_magic(name):  # of many shards only the first is checked: each check may take a round trip
            yield _existing(name, location) if name == names[0] else as_path(name)
        elif is_local(as_path(name)) and "**" in name.split("/"):
            yield from sorted(_found_below(name))
        elif is_local(as_path(name)):
            yield from sorted(map(Path, glob.iglob(str(as_path(name)), recursive=True)))
        else:
            pattern: Any = as_path(name)
            yield from (as_path(pattern.fs.unstrip_protocol(found)) for found in sorted(pattern.fs.glob(pattern.path)))


def _found_below(pattern: str) -> Iterator[Path]:
    """Yield what matches a local pattern with `**`, entering folders as a listing does: links cannot loop."""
    root = _fixed_folder(pattern)
    if not root.is_dir():
        return
    parts = os.path.relpath(as_path(pattern), root).split("/")
    for folder in FolderWalk(root, ListingReport()).folders():
        for name in folder.names:
            path = folder.prefix + name.rstrip("/")
            if _matches(path.split("/"), parts):
                yield root / path


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not path:
        return not path and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or _matches(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _existing(name: str, location: str) -> Path:
    path = as_path(name)
    if not path.exists():
        missing = f"{name} does not exist; " if name != location else ""
        raise UsageError(f"{location}: {missing}expected {EXPECTED}; it is none of these")
    return path


def _fixed_folder(location: str) -> Path:
    """Return the folder before the first wildcard or brace: paths below it stay the same when more files match."""
    found = re.search(r"[*?\[{]", location)
    fixed = location[: found.start()] if found else location
    return as_path(fixed[: fixed.rfind("/") + 1])


def _relative(path: Path, root: Path, location: str) -> str:
    """Return the path below `root`. Raises UsageError if it is elsewhere."""
    if is_local(path) and is_local(root):
        return path.relative_to(root).as_posix()
    start, whole = (getattr(one, "path", None) for one in (root, path))
    if start is None or whole is None or not whole.lstrip("/").startswith(start.strip("/")):
        raise UsageError(f"{location}: expected files in one file system or bucket")
    return str(whole.lstrip("/")[len(start.strip("/")) :].lstrip("/"))
