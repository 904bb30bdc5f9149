"""The content of a step's inputs, as numbers that show whether it changed or only grew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import RefusedInput, UsageError
from shared.storage.digests import digest_of
from shared.storage.paths import as_path, is_local, sha256_of
from vq_stage.sources.captions import METADATA_FILES
from vq_stage.sources.folder_walk import UNREADABLE, FolderWalk
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.lists import ListSource
from vq_stage.sources.media_types import is_frame_folder, stem_of
from vq_stage.sources.open_source import expanded

MAX_HASHED_BYTES = 64 << 20  # a single file up to this size is compared by content, a larger one by size and time

FileState = tuple[str, ...]  # name, size in bytes, modification time in nanoseconds


@dataclass(frozen=True, slots=True)
class InputState:
    """The content of a local input.

    `items` (uint64) holds a number for each item, a hash of its names, sizes and times; more items may be added
    later. An item is a file with its siblings of the same stem (an image and its caption), or a folder of frames.
    `fixed` is a digest of what must not change: metadata files, and a single file given by its path, which is
    compared by content if it is small. With a list of images and videos belong the sizes and times of these. Remote
    inputs, hidden files, and output of this program inside another folder are not seen.
    """

    fixed: str
    items: np.ndarray

    @classmethod
    def read(cls, location: str, media_root: str | None = None) -> InputState:
        """Raises UsageError for a folder that cannot be listed, or a list that cannot be read."""
        path = Path(location)
        fixed: list[FileState] = []
        items: list[int] = []
        if "://" in location or location == "-":
            pass
        elif path.is_file():
            is_small = path.stat().st_size <= MAX_HASHED_BYTES
            fixed.append((location, sha256_of(path)) if is_small else (location, *_size_and_time(path)))
            if media_root is not None:
                fixed.append(("media", digest_of_all(map(_size_and_time, listed_files(path, media_root)))))
        elif path.is_dir():
            for folder, files in _items_below(path):
                metadata = [file for file in files if file[0] in METADATA_FILES]
                fixed += [(folder, *file) for file in metadata]
                if len(files) > len(metadata):
                    items.append(_hash(folder, *(file for file in files if file not in metadata)))
        else:
            for file in expanded(location):
                items.append(_hash(str(file), *_size_and_time(file)))
                if file.is_dir():
                    items += [_hash(str(file), folder, *files) for folder, files in _items_below(file)]
        return cls(digest_of(fixed), np.array(items, np.uint64))


def listed_files(path: Path, media_root: str) -> Iterator[Path]:
    """Yield the local files that a list of images and videos names. Raises UsageError if the list cannot be read."""
    return filter(is_local, ListSource(as_path(media_root), path).files())


def digest_of_all(described: Iterable[object]) -> str:
    """Return a digest of values in order, which are not held in memory together."""
    digest = hashlib.sha256()
    for one in described:
        digest.update(repr(one).encode())
    return digest.hexdigest()


def folder_walk(top: Path, report: ListingReport) -> FolderWalk:
    """Return a walk through a local input that is a folder; output of this program is left out unless it is `top`."""
    return FolderWalk(top, report, includes_own=os.path.exists(top / "plan.arrow"))


def _items_below(top: Path) -> Iterator[tuple[str, list[FileState]]]:
    """Yield every item: its folder relative to `top`, and its files."""
    report = ListingReport()
    try:
        for folder in folder_walk(top, report).folders():
            by_stem: dict[str, list[FileState]] = {}
            for name in (name for name in folder.names if not name.endswith("/")):
                stem = "" if is_frame_folder(folder.prefix) else stem_of(name)
                by_stem.setdefault(stem, []).append((name, *_size_and_time(top / folder.prefix / name)))
            for files in by_stem.values():
                yield f"/{folder.prefix}".rstrip("/"), files
    except RefusedInput as refused:
        raise UsageError(f"{top}: cannot be listed: {refused.detail}") from refused
    if unreadable := report.skipped.get(UNREADABLE):  # its files do not count as removed
        raise UsageError(f"{top / unreadable.first}: cannot be listed")


def _hash(*described: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(described).encode(), digest_size=8).digest(), "little")


def _size_and_time(file: str | Path) -> FileState:
    """Return the size and the modification time of a file; nothing if it is missing or a broken link."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # ValueError: a list may name anything
        return ()
    return str(status.st_size), str(status.st_mtime_ns)
