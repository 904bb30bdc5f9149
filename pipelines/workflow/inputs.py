"""What is at the places that a step reads, in numbers that tell whether it is what it was, or that and more."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import UsageError
from shared.storage.digests import digest_of
from shared.storage.paths import sha256_of
from vq_stage.sources.captions import METADATA_FILES
from vq_stage.sources.media_types import is_frame_folder, stem_of
from vq_stage.sources.open_source import expanded

READ_WHOLE = 64 << 20  # bytes of a single file up to which its content is compared, not its size and time


@dataclass(frozen=True, slots=True)
class Holding:
    """What a place of this machine holds: `items` (uint64), to which others may be added; `fixed`, digest of all else.

    An item is a file with those beside it of the same name but for the suffix (a picture and its caption), or a
    folder of frames: a number made of their names, sizes and times. Fixed are metadata files, and what is given as a
    file by itself, a small one by its content. Nothing remote is seen, and no name that begins with a point.
    """

    fixed: str
    items: np.ndarray

    @classmethod
    def of(cls, place: str) -> Holding:
        """Raises UsageError for a folder that cannot be listed."""
        path = Path(place)
        fixed: list[tuple[str, ...]] = []
        items: list[int] = []
        if "://" in place or place == "-":
            pass
        elif path.is_file():
            is_small = path.stat().st_size <= READ_WHOLE
            fixed.append((place, sha256_of(path)) if is_small else (place, *_size_and_time(path)))
        elif path.is_dir():
            for folder, files in _items_below(path):
                metadata = [one for one in files if one[0] in METADATA_FILES]
                fixed += [(folder, *one) for one in metadata]
                if len(files) > len(metadata):
                    items.append(_number(folder, *(one for one in files if one not in metadata)))
        else:
            items += [_number(str(file), *_size_and_time(file)) for file in expanded(place)]
        return cls(digest_of(fixed), np.array(items, np.uint64))


def _items_below(top: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Every item: its folder, by what that adds to `top`, and its files with their sizes and times."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for root, folders, names in os.walk(top, onerror=refuse):
        folders.sort()
        by_stem: dict[str, list[tuple[str, ...]]] = {}
        for name in sorted(name for name in names if not name.startswith(".")):
            stem = "" if is_frame_folder(root) else stem_of(name)
            by_stem.setdefault(stem, []).append((name, *_size_and_time(f"{root}/{name}")))
        for files in by_stem.values():
            yield root[len(str(top)) :], files


def _number(*described: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(described).encode(), digest_size=8).digest(), "little")


def _size_and_time(file: str | Path) -> tuple[str, ...]:
    """Nothing for a link that leads nowhere."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return str(found.st_size), str(found.st_mtime_ns)
