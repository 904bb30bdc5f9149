"""The interface of a source: items in a stable order, and the content of each item on demand."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import RefusedInput, UsageError
from shared.storage.digests import canonical_json
from shared.storage.paths import as_path, is_local, names_in
from vq_stage.media.image_decoding import MAX_FILE_BYTES
from vq_stage.sources.files import open_file, refusing_unreadable
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.media_types import is_frame, is_frame_folder, is_image, kind_of
from vq_stage.video.clips import DEFAULT_FPS
from vq_stage.video.frame_folder import FrameFile, FrameFolder, natural_sort_key
from vq_stage.video.open_video import open_video
from vq_stage.video.video_file import VideoFile

_READ_BYTES = 1 << 20

Locator = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One input: its requested key, the location of its content, and its caption.

    `uri` is relative to the root of the source where possible (`a/b.jpg`, `shard.tar/b.jpg`, `table.parquet#17`).
    `kind` is image or video. `locator` is the position in a container: (offset, size) in bytes of a tar; (row group,
    row) of a Parquet file; (batch, row) of an Arrow file; (offset of the batch in bytes, row) of an Arrow stream.
    `extra_json` is canonical JSON that the dataset's row keeps; `refusal` is (reason, detail).

    `other_keys` are keys under which the item may have been planned; it gets the last of them if `key` is in use
    already. `key_repeats` says that `key` does not identify the item, since others of the source may have it too.
    `number` counts the items with the same `uri`, such as members of a tar that have one name.
    """

    key: str
    uri: str
    text: str | None = None
    kind: str = "image"
    locator: Locator | None = None
    extra_json: str | None = None
    refusal: tuple[str, str] | None = None
    other_keys: tuple[str, ...] = ()
    key_repeats: bool = False
    number: int = 1

    @property
    def has_caption(self) -> bool:
        """Whether there is a caption or a conversation."""
        return bool(self.text) or '"conversations":' in (self.extra_json or "")

    def refused(self, reason: str, detail: str) -> MediaItem:
        return replace(self, refusal=(reason, detail))


def as_extra_json(extra: Mapping[str, Any]) -> str | None:
    """Return the `extra_json` of these fields, None if there are none."""
    return canonical_json(dict(extra)) if extra else None


def _none_planned(item: MediaItem) -> bool:
    return False


@dataclass(frozen=True)
class MediaSource(ABC):
    """A lazy list of items whose content can be read in any order, by several threads at once.

    Paths of items are relative to `root`, so a folder that was moved is still the same source. Listing holds one
    directory, the headers of one shard or one batch of captions in memory at a time. `report` counts what the last
    listing used and skipped.
    """

    root: Path
    report: ListingReport = field(default_factory=ListingReport, kw_only=True, repr=False, compare=False)

    def __iter__(self) -> Iterator[MediaItem]:
        return self.items()

    def items(self, is_planned: Callable[[MediaItem], bool] = _none_planned) -> Iterator[MediaItem]:
        """List all items except the planned ones, whose captions are not read either.

        `is_planned` has the key, uri and kind to decide; it may raise, to stop a long listing. A bad item is listed
        with its refusal. Raises UsageError if the source has no items at all, planned or not, or a list cannot be read.
        """

        is_empty = True

        def is_left_out(item: MediaItem) -> bool:
            nonlocal is_empty
            if is_planned(checked_text(item)):
                is_empty = False
                return True
            return False

        self.report.clear()
        for item in map(checked_text, self._items(is_left_out)):
            is_empty = False
            if not is_planned(item):
                if not item.has_caption and not item.refusal:
                    self.report.without_caption.add(item.uri)
                yield item
        if is_empty and (message := self._empty_message()):
            raise UsageError(message)

    @abstractmethod
    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        """List all items; those that are planned may be left out, or lack everything but key, uri and kind."""

    @abstractmethod
    def _empty_message(self) -> str | None:
        """Return the error message for a source without items; None if it may be empty."""

    def open(self, uri: str, locator: Locator | None = None) -> BinaryIO:
        """Open an item's content as a seekable file. Raises RefusedInput: `missing`, `unreadable`, `empty`, …"""
        with refusing_unreadable():
            path, is_fetched = self._path(uri), kind_of(uri) == "image"
            is_limited = is_image(uri) or (is_fetched and not is_local(path))  # on disk, no suffix may mean a video
            return open_file(path, is_fetched, max_bytes=MAX_FILE_BYTES if is_limited else None)

    @contextmanager
    def video(self, uri: str, locator: Locator | None = None, extra_json: str | None = None) -> Iterator[VideoFile]:
        """Open a video, or a folder of frames displayed at the rate `fps` of its `extra_json`. Raises RefusedInput."""
        if is_frame_folder(uri):
            frames = [FrameFile(frame, partial(self.open, frame)) for frame in self.frames(uri)]
            yield FrameFolder(frames, frame_rate(extra_json))
        else:
            with self.open(uri, locator) as file:
                yield open_video(file)

    def frames(self, uri: str) -> list[str]:
        """Return the URIs of the images in a folder of frames, in natural order. Raises RefusedInput."""
        with refusing_unreadable():
            folder = self._path(uri)
            names = list(filter(is_frame, names_in(folder)))
            if not names and not folder.is_dir():
                raise RefusedInput("missing", "the folder does not exist")
        return [f"{uri.rstrip('/')}/{name}" for name in sorted(names, key=natural_sort_key)]

    def sha256(self, uri: str, locator: Locator | None = None) -> bytes:
        """Hash an item's content; for a folder of frames, their contents in order. Raises RefusedInput."""
        digest = hashlib.sha256()
        for part in self.frames(uri) if is_frame_folder(uri) else [uri]:
            with self.open(part, locator) as file, refusing_unreadable():
                while data := file.read(_READ_BYTES):
                    digest.update(data)
        return digest.digest()

    def _path(self, uri: str) -> Path:
        """Return the path of a URI, or of what it may mean if no such file exists: lists are written by hand."""
        path = self._located(uri)
        if "://" in uri or not is_local(path) or path.exists():
            return path
        return next((other for other in map(self._located, _other_spellings(uri)) if other.exists()), path)

    def _located(self, uri: str) -> Path:
        is_absolute = "://" in uri or (uri.startswith("/") and not is_local(self.root))
        return as_path(uri) if is_absolute else self.root / uri


def _other_spellings(uri: str) -> Iterator[str]:
    """Yield the path with `~` expanded, with the separators of Windows replaced, and in its Unicode forms."""
    yield os.path.expanduser(uri)
    slashed = uri.replace("\\", "/")
    yield from (slashed, unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed))


def frame_rate(extra_json: str | None) -> float:
    """Return the rate that a list entry gave for a folder of frames, in frames per second."""
    fps = json.loads(extra_json).get("fps") if extra_json else None
    return float(fps) if isinstance(fps, (int, float)) and fps > 0 else DEFAULT_FPS


def checked_text(item: MediaItem) -> MediaItem:
    """Return the item; refused, with its name escaped, if any of its text is not valid Unicode."""
    try:
        "".join((item.key, item.uri, item.text or "", item.extra_json or "")).encode()
    except UnicodeEncodeError as error:
        key, uri = (name.encode(errors="backslashreplace").decode() for name in (item.key, item.uri))
        return MediaItem(key, uri).refused("bad_name", f"name or caption is not valid Unicode: {error.reason}")
    if item.refusal:
        reason, detail = item.refusal
        return replace(item, refusal=(reason, detail.encode(errors="backslashreplace").decode()))
    return item
