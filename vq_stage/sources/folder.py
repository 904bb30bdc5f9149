"""A folder of images and videos with everything below it, and the captions beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
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

REMOTE_READERS = 16  # caption files of a remote folder are read in parallel, because each takes a round trip

# An item with the path of the caption file to read for it, if any; or the path of a folder to enter.
ListedItem = tuple[MediaItem, str | None]
FolderEntry = ListedItem | str


@dataclass(frozen=True)
class FolderSource(MediaSource):
    """Items in the order of their paths.

    Captions come from `picture.txt` beside `picture.png`, or from the fields `file_name` and `text` of a metadata file
    in any of the folders. A folder of images named `*.frames` is one video. Linked folders are not entered.
    """

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        with closing(Captions()) as captions:
            listed = FolderWalk(self.root, captions, is_planned).items()
            if is_local(self.root):
                yield from map(self._captioned, listed)
            else:
                with closing(prefetch_map(self._captioned, listed, REMOTE_READERS, 4 * REMOTE_READERS)) as captioned:
                    yield from captioned

    def _empty_message(self) -> str:
        return f"{self.root}: no images or videos found; expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"

    def _captioned(self, listed: ListedItem) -> MediaItem:
        """Return the item with the caption of its caption file; refused if that cannot be read."""
        item, caption_path = listed
        if caption_path is None:
            return item
        try:
            with open_file(self.root / caption_path, is_fetched=True) as file, refusing_unreadable():
                return replace(item, text=file.read().decode("utf-8-sig").strip())
        except (RefusedInput, UnicodeDecodeError) as error:
            if isinstance(error, RefusedInput) and error.reason == "empty":
                return replace(item, text="")
            return item.refused("caption_unreadable", f"{os.path.basename(caption_path)}: {error}")


class FolderWalk:
    """One depth-first pass over a folder; it holds the names of the folders it is in, and nothing else.

    Metadata files are read when the first item that is not planned needs a caption.
    """

    def __init__(self, root: Path, captions: Captions, is_planned: Callable[[MediaItem], bool]):
        self.root = root
        self.captions = captions
        self.is_planned = is_planned
        self._unread_metadata: list[str] = []

    def items(self) -> Iterator[ListedItem]:
        open_folders = [self._entries("")]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, str):
                open_folders.append(self._entries(entry))
            else:
                yield entry

    def _entries(self, prefix: str) -> Iterator[FolderEntry]:
        """List one folder; `prefix` is its path ending in `/`, or empty for the root."""
        try:
            names = sorted_names(self.root / prefix)
        except RefusedInput as refused:
            if not prefix:
                raise UsageError(f"{self.root}: cannot be listed: {refused}") from refused
            yield MediaItem(prefix, prefix).refused(refused.reason, f"the folder: {refused.detail}"), None
            return
        self._unread_metadata += [prefix + name for name in METADATA_FILES if name in names]
        media = [name for name in names if self._is_media(prefix, name)]
        keys = dict(zip(media, unique_keys([name.rstrip("/") for name in media])))
        caption_files = {name for name in names if name.endswith(".txt")}
        for name in names:
            if name in keys:
                uri, caption_file = prefix + name.rstrip("/"), f"{stem_of(name.rstrip('/'))}.txt"
                item = MediaItem(prefix + keys[name], uri, kind=kind_of(name))
                yield self._listed(item, prefix + caption_file if caption_file in caption_files else None)
            elif name.endswith("/"):
                yield prefix + name

    def _listed(self, item: MediaItem, caption_path: str | None) -> ListedItem:
        if self.is_planned(item):
            return item, None
        while self._unread_metadata:
            self._read_metadata(self._unread_metadata.pop(0))
        text = self.captions.get(item.uri)
        return replace(item, text=text), caption_path if text is None else None

    def _read_metadata(self, path: str) -> None:
        folder = path[: path.rfind("/") + 1]
        captions = read_captions(self.root / path)
        self.captions.add((f"{folder}{os.path.normpath(file)}", text) for file, text in captions)

    def _is_media(self, prefix: str, name: str) -> bool:
        if not name.endswith("/"):
            return is_media(name)
        try:
            return is_frame_folder(name) and any(map(is_image, sorted_names(self.root / prefix / name)))
        except RefusedInput:
            return False


def sorted_names(folder: Path) -> list[str]:
    """Return all names in a folder, sorted; names of folders end in `/`, so that whole paths are sorted too.

    Raises RefusedInput.
    """
    with refusing_unreadable():
        return sorted(entry_names(folder))


def entry_names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder in no order; names of folders end in `/`. Linked folders are left out."""
    return _local_names(folder) if is_local(folder) else _remote_names(folder)


def _local_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.name
            elif not entry.is_symlink():
                yield f"{entry.name}/"


def _remote_names(folder: Path) -> Iterator[str]:
    """Yield the names as `entry_names` does; some stores list a folder as an object within itself."""
    remote: Any = folder
    itself = remote.path.rstrip("/")
    for info in remote.fs.ls(itself, detail=True):
        path = info["name"].rstrip("/")
        if path != itself and path != itself.lstrip("/"):
            name = path.rpartition("/")[2]
            yield f"{name}/" if info["type"] == "directory" else name


def unique_keys(names: list[str]) -> list[str]:
    """Return a key for each name of a folder: without the suffix where that is unique.

    If an image and a video share a name, the image gets the key without the suffix.
    """
    all_names = set(names)
    images = Counter(stem_of(name) for name in names if kind_of(name) == "image")
    videos = Counter(stem_of(name) for name in names if kind_of(name) == "video")
    keys = []
    for name in names:
        stem = stem_of(name)
        count = images[stem] + (videos[stem] if kind_of(name) == "video" else 0)
        keys.append(stem if count == 1 and stem not in all_names else name)
    return keys
