"""What a source offers: items in a stable order, and their content when it is asked for."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path, is_local, names_in
from vq_stage.sources.files import open_file, refusing_unreadable
from vq_stage.sources.media_types import is_frame_folder, is_image, kind_of
from vq_stage.video.clips import DEFAULT_FPS
from vq_stage.video.frame_folder import FrameFile, FrameFolder, natural_sort_key
from vq_stage.video.open_video import open_video
from vq_stage.video.video_file import VideoFile

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One input: proposed key, where its content is, caption.

    `uri` is relative to the source's root where it can be (`a/b.jpg`, `shard.tar/b.jpg`, `table.parquet#17`).
    `kind` is image or video. `locator` is where it stands in a container: (offset, size) in bytes of a tar; (row group,
    row) of a Parquet file, (batch, row) of an Arrow file, (offset of the batch in bytes, row) of an Arrow stream.
    `extra` goes to the row's `extra_json`; `refusal` is (reason, detail).
    """

    key: str
    uri: str
    text: str | None = None
    kind: str = "image"
    locator: tuple[int, int] | None = None
    extra: Mapping[str, Any] | None = None
    refusal: tuple[str, str] | None = None

    def refused(self, reason: str, detail: str) -> MediaItem:
        return replace(self, refusal=(reason, detail))


@dataclass(frozen=True)
class MediaSource(ABC):
    """Paths of its items are relative to `root`, so a moved folder is the same source. Reading is thread-safe.

    Listing is lazy: one directory, one shard's headers or one batch of captions is held at a time.
    """

    root: Path

    def __iter__(self) -> Iterator[MediaItem]:
        """Raises UsageError if nothing is found or a list cannot be read; a bad item comes with its refusal."""
        is_empty = True
        for item in self._items():
            is_empty = False
            yield _as_text(item)
        if is_empty and (message := self._nothing_found()):
            raise UsageError(message)

    @abstractmethod
    def _items(self) -> Iterator[MediaItem]: ...

    @abstractmethod
    def _nothing_found(self) -> str | None:
        """The complaint of a source without items; None if it may have none."""

    def open(self, uri: str, locator: tuple[int, int] | None = None) -> BinaryIO:
        """Content of an item, seekable. Raises RefusedInput: `missing`, `unreadable`, `empty` or `truncated`."""
        with refusing_unreadable():
            return open_file(self._path(uri), is_fetched=kind_of(uri) == "image")

    @contextmanager
    def video(self, uri: str, locator: tuple[int, int] | None = None, fps: float = DEFAULT_FPS) -> Iterator[VideoFile]:
        """A video, or a folder of frames shown at `fps`. Raises RefusedInput."""
        if is_frame_folder(uri):
            yield FrameFolder([FrameFile(frame, partial(self.open, frame)) for frame in self.frames(uri)], fps)
        else:
            with self.open(uri, locator) as file:
                yield open_video(file)

    def frames(self, uri: str) -> list[str]:
        """URIs of the images in a folder of frames, in natural order. Raises RefusedInput."""
        with refusing_unreadable():
            folder = self._path(uri)
            names = [name for name in names_in(folder) if is_image(name)]
            if not names and not folder.is_dir():
                raise RefusedInput("missing", "the folder is not there")
        return [f"{uri.rstrip('/')}/{name}" for name in sorted(names, key=natural_sort_key)]

    def sha256(self, uri: str, locator: tuple[int, int] | None = None) -> bytes:
        """Digest of an item's content; of a folder's frames, one after the other. Raises RefusedInput."""
        digest = hashlib.sha256()
        for part in self.frames(uri) if is_frame_folder(uri) else [uri]:
            with self.open(part, locator) as file, refusing_unreadable():
                while data := file.read(_READ_BYTES):
                    digest.update(data)
        return digest.digest()

    def _path(self, uri: str) -> Path:
        is_absolute = "://" in uri or (uri.startswith("/") and not is_local(self.root))
        return as_path(uri) if is_absolute else self.root / uri


def _as_text(item: MediaItem) -> MediaItem:
    """The item; refused, with escapes in its name, if anything it says is not valid Unicode."""
    try:
        extra = json.dumps(dict(item.extra), ensure_ascii=False) if item.extra else ""
        "".join((item.key, item.uri, item.text or "", extra)).encode()
    except UnicodeEncodeError as error:
        key, uri = (name.encode(errors="backslashreplace").decode() for name in (item.key, item.uri))
        return MediaItem(key, uri).refused("bad_name", f"name or caption is not valid Unicode: {error.reason}")
    if item.refusal:
        reason, detail = item.refusal
        return replace(item, refusal=(reason, detail.encode(errors="backslashreplace").decode()))
    return item
