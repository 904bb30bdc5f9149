"""Opens a source by its location: a folder, a list, WebDataset tars or tables, on disk or by an fsspec URL."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path, is_local
from vq_stage.sources.files import refusing_unreadable
from vq_stage.sources.folder import FolderSource, entry_names
from vq_stage.sources.lists import ListSource, StandardInput
from vq_stage.sources.media_source import MediaSource
from vq_stage.sources.media_types import is_media, suffix_of
from vq_stage.sources.tables import TABLE_SUFFIXES, TableSource
from vq_stage.sources.webdataset import WebDatasetSource

STANDARD_INPUT = "-"
LIST_SUFFIXES = (".json", ".jsonl")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
EXPECTED = "a folder of images or videos, a .json/.jsonl list, .tar shards or .parquet/.arrow tables"


def open_source(location: str | Path) -> MediaSource:
    """Open a source by its path or fsspec URL; items are listed only on iteration.

    The location is a folder (of images and videos, or of tars or tables only), a `.json` or `.jsonl` list, a `.tar`,
    `.parquet` or `.arrow` file, several of them by a glob or by braces (`{00000..00099}.tar`), or `-` for paths, URLs
    or JSON entries on standard input, one per line. Raises UsageError.
    """
    location = str(location)
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
        containers = _containers_in(path)
        return _container_source(location, containers) if containers else FolderSource(path)
    if path.suffix in LIST_SUFFIXES and path.is_file():
        return ListSource(path.parent, path)
    return _container_source(location, [path] if path.is_file() else list(expanded(location)))


def _containers_in(folder: Path) -> list[Path]:
    """Return the tars or tables of a folder, sorted; none if it contains images, videos or folders as well."""
    names = []
    for name in entry_names(folder):
        if name.endswith("/") or is_media(name):
            return []
        if suffix_of(name) in (".tar", *TABLE_SUFFIXES):
            names.append(name)
    return [folder / name for name in sorted(names)]


def expanded(location: str) -> Iterator[Path]:
    """Expand braces, in their order, and globs, sorted. Raises UsageError."""
    try:
        names = list(braceexpand(location))
    except ValueError as error:
        raise UsageError(f"{location}: braces: {error}") from error
    for name in names:
        if not glob.has_magic(name):  # of many shards only the first is checked: each check may take a round trip
            yield _existing(name, location) if name == names[0] else as_path(name)
        elif is_local(as_path(name)):
            yield from sorted(map(Path, glob.iglob(str(as_path(name)), recursive=True)))
        else:
            pattern: Any = as_path(name)
            yield from (as_path(pattern.fs.unstrip_protocol(found)) for found in sorted(pattern.fs.glob(pattern.path)))


def _existing(name: str, location: str) -> Path:
    path = as_path(name)
    if not path.exists():
        missing = f"{name} does not exist; " if name != location else ""
        raise UsageError(f"{location}: {missing}expected {EXPECTED}; it is neither")
    return path


def _container_source(location: str, paths: list[Path]) -> MediaSource:
    """Return the source of these files. Raises UsageError unless all are tars, or all are tables."""
    if not paths:
        raise UsageError(f"{location}: no file matches; expected {EXPECTED}")
    if packed := next((path for path in paths if path.name.endswith(COMPRESSED_TARS)), None):
        raise UsageError(f"{packed}: a compressed tar cannot be read in part; decompress it first")
    root = _common_root(location, paths)
    named = {_relative(path, root): path for path in paths}
    suffixes = {suffix_of(path.name) for path in paths}
    if suffixes == {".tar"}:
        return WebDatasetSource(root, named)
    if suffixes <= set(TABLE_SUFFIXES):
        return TableSource(root, named)
    if len(suffixes & {".tar", *TABLE_SUFFIXES}) > 1:
        raise UsageError(f"{location}: expected tars or tables, got both; select one kind with a glob")
    raise UsageError(f"{location}: expected {EXPECTED}; it is neither")


def _common_root(location: str, paths: list[Path]) -> Path:
    root = paths[0].parent
    for path in paths:
        while not path.is_relative_to(root):
            if root == root.parent:
                raise UsageError(f"{location}: expected files in one file system or bucket")
            root = root.parent
    return root


def _relative(path: Path, root: Path) -> str:
    return str(path)[len(str(root)) :].lstrip("/") if not is_local(path) else path.relative_to(root).as_posix()
