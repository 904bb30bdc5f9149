"""Images and videos in a folder and those below it, with captions beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.errors import RefusedInput, UsageError
from shared.jobs.prefetch import prefetch_map
from shared.storage.paths import is_local
from vq_stage.sources.captions import METADATA_FILES, Captions, read_captions
from vq_stage.sources.files import open_file, refusing_unreadable
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.media_types import IMAGE_SUFFIXES, is_frame_folder, is_image, is_media, kind_of, stem_of

REMOTE_READERS = 16  # sidecars of a remote folder read at once, as each takes a round trip

# An item with the name of its sidecar if that is to be read, or a folder to go into.
Found = tuple[MediaItem, str | None] | str


@dataclass(frozen=True)
class FolderSource(MediaSource):
    """Items in the order of their paths.

    Captions: `picture.txt` beside `picture.png`, or `file_name` and `text` in a `metadata.jsonl` or the like in any of
    the folders. A folder of images named `*.frames` is one video. Linked folders are not entered.
    """

    def _items(self) -> Iterator[MediaItem]:
        with closing(Captions()) as captions:
            found = FolderWalk(self.root, captions).items()
            if is_local(self.root):
                yield from map(self._captioned, found)
            else:
                with closing(prefetch_map(self._captioned, found, REMOTE_READERS, 4 * REMOTE_READERS)) as captioned:
                    yield from captioned

    def _nothing_found(self) -> str:
        return f"{self.root}: no images or videos found; expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"

    def _captioned(self, found: tuple[MediaItem, str | None]) -> MediaItem:
        item, sidecar = found
        if sidecar is None:
            return item
        try:
            with open_file(self.root / sidecar, is_fetched=True) as file, refusing_unreadable():
                return replace(item, text=file.read().decode("utf-8-sig").strip())
        except RefusedInput as refused:
            return replace(item, text="") if refused.reason == "empty" else _caption_refused(item, sidecar, refused)
        except UnicodeDecodeError as error:
            return _caption_refused(item, sidecar, error)


class FolderWalk:
    """One pass over a tree, depth first: of each folder on the way the names are held, and nothing else."""

    def __init__(self, root: Path, captions: Captions):
        self.root = root
        self.captions = captions

    def items(self) -> Iterator[tuple[MediaItem, str | None]]:
        pending = [self._folder("")]
        while pending:
            found = next(pending[-1], None)
            if found is None:
                pending.pop()
            elif isinstance(found, str):
                pending.append(self._folder(found))
            else:
                yield found

    def _folder(self, prefix: str) -> Iterator[Found]:
        """What a folder holds; `prefix` is "" or its path ending in `/`."""
        try:
            names = sorted_names(self.root / prefix)
        except RefusedInput as refused:
            if not prefix:
                raise UsageError(f"{self.root}: cannot be listed: {refused}") from refused
            yield MediaItem(prefix, prefix).refused(refused.reason, f"the folder: {refused.detail}"), None
            return
        for name in METADATA_FILES:
            if name in names:
                self._read_captions(prefix, name)
        media = [name for name in names if self._is_media(prefix, name)]
        keys = dict(zip(media, unique_keys([name.rstrip("/") for name in media])))
        texts = {name for name in names if name.endswith(".txt")}
        for name in names:
            if name in keys:
                yield self._found(prefix, name.rstrip("/"), keys[name], texts)
            elif name.endswith("/"):
                yield prefix + name

    def _found(self, prefix: str, name: str, key: str, texts: set[str]) -> tuple[MediaItem, str | None]:
        uri, sidecar = prefix + name, f"{stem_of(name)}.txt"
        item = MediaItem(prefix + key, uri, self.captions.get(uri), kind_of(name))
        return item, prefix + sidecar if item.text is None and sidecar in texts else None

    def _read_captions(self, prefix: str, name: str) -> None:
        captions = read_captions(self.root / prefix / name)
        self.captions.add((f"{prefix}{os.path.normpath(file)}", text) for file, text in captions)

    def _is_media(self, prefix: str, name: str) -> bool:
        if not name.endswith("/"):
            return is_media(name)
        try:
            return is_frame_folder(name) and any(map(is_image, sorted_names(self.root / prefix / name)))
        except RefusedInput:
            return False


def sorted_names(folder: Path) -> list[str]:
    """All names in a folder, those of folders ending in `/`: walked in this order, whole paths come out sorted.

    Raises RefusedInput.
    """
    with refusing_unreadable():
        return sorted(entry_names(folder))


def entry_names(folder: Path) -> Iterator[str]:
    """Names in a folder as they come, those of folders ending in `/`; linked folders are passed over."""
    return _local_names(folder) if is_local(folder) else _remote_names(folder)


def _local_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.name
            elif not entry.is_symlink():
                yield f"{entry.name}/"


def _remote_names(folder: Path) -> Iterator[str]:
    """Some stores list a folder as an object within itself."""
    remote: Any = folder
    itself = remote.path.rstrip("/")
    for info in remote.fs.ls(itself, detail=True):
        path = info["name"].rstrip("/")
        if path != itself and path != itself.lstrip("/"):
            name = path.rpartition("/")[2]
            yield f"{name}/" if info["type"] == "directory" else name


def unique_keys(names: list[str]) -> list[str]:
    """A key for each name of a folder: without its suffix where that is unmistakable. Videos give way to images."""
    taken = set(names)
    images = Counter(stem_of(name) for name in names if kind_of(name) == "image")
    videos = Counter(stem_of(name) for name in names if kind_of(name) == "video")
    keys = []
    for name in names:
        stem = stem_of(name)
        count = images[stem] + (videos[stem] if kind_of(name) == "video" else 0)
        keys.append(stem if count == 1 and stem not in taken else name)
    return keys


def _caption_refused(item: MediaItem, sidecar: str, error: Exception) -> MediaItem:
    return item.refused("caption_unreadable", f"{os.path.basename(sidecar)}: {error}")
