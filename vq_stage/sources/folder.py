"""A folder of images and videos with everything below it, and the captions beside them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import compress, islice

from shared.dataset.known_keys import KnownKeys
from shared.errors import RefusedInput, UsageError
from shared.jobs.prefetch import prefetch_map
from shared.storage.paths import is_local
from shared.storage.temporary_database import naming_the_disk
from vq_stage.sources.captions import METADATA_FILES, Captions
from vq_stage.sources.field_names import CAPTION_FILE_SUFFIXES
from vq_stage.sources.files import is_file, open_file, refusing_unreadable
from vq_stage.sources.folder_walk import UNREADABLE, Folder, FolderWalk
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.media_types import (
    IMAGE_SUFFIXES,
    is_frame,
    is_frame_folder,
    is_media,
    kind_of,
    stem_of,
    suffix_of,
)

CAPTION_SUFFIXES = CAPTION_FILE_SUFFIXES[::-1]  # if an image has both, the last one counts
MAX_CAPTION_BYTES = 1 << 20
MAX_REMOTE_BESIDE = 16  # folders in a remote folder to search for metadata files: each name takes a round trip
REMOTE_READERS = 16  # caption files of a remote folder are read in parallel, because each takes a round trip

# An item with the path of the caption file to read for it, if any.
ListedItem = tuple[MediaItem, str | None]


@dataclass(frozen=True)
class FolderSource(MediaSource):
    """Items in the order of their paths; with `chosen`, only these files and what is in these folders below `root`.

    Captions come from `picture.txt` beside `picture.png`, or from the fields `file_name` and `text` of a metadata file
    in its folder, in one above it, or in one beside these. A folder of images named `*.frames` is one video.
    Items whose keys are among `planned_keys` are planned; most of them are left out before they are built.
    """

    chosen: frozenset[str] | None = field(default=None, repr=False)
    planned_keys: KnownKeys | None = field(default=None, repr=False, compare=False)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        with naming_the_disk(), closing(Captions()) as captions:
            listed = FolderListing(self, captions, is_planned).items()
            if is_local(self.root):
                yield from map(self._captioned, listed)
            else:
                with closing(prefetch_map(self._captioned, listed, REMOTE_READERS, 4 * REMOTE_READERS)) as captioned:
                    yield from captioned

    def _empty_message(self) -> str:
        skipped = "".join(f"; {line}" for line in self.report.lines())
        expected = f"expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
        return f"{self.root}: no images or videos found; {expected}{skipped}"

    def _captioned(self, listed: ListedItem) -> MediaItem:
        """Return the item with the caption of its caption file; refused if that cannot be read."""
        item, caption_path = listed
        if caption_path is None:
            return item
        try:
            path = self.root / caption_path
            with open_file(path, is_fetched=True, max_bytes=MAX_CAPTION_BYTES) as file, refusing_unreadable():
                return replace(item, text=file.read().decode("utf-8-sig").strip())
        except (RefusedInput, UnicodeDecodeError) as error:
            if isinstance(error, RefusedInput) and error.reason == "empty":
                return replace(item, text="")
            return item.refused("caption_unreadable", f"{os.path.basename(caption_path)}: {error}")


class FolderListing:
    """One depth-first pass over a folder; only the names in the folders that are being read are in memory.

    Metadata files are read when the first item that is not planned needs a caption.
    """

    def __init__(self, source: FolderSource, captions: Captions, is_planned: Callable[[MediaItem], bool]):
        self.root = source.root
        self.report = source.report
        self.captions = captions
        self.is_planned = is_planned
        self._planned_keys = source.planned_keys
        self._walk = FolderWalk(source.root, source.report, source.chosen)
        self._reports_others = source.chosen is None
        self._missing = set(source.chosen or ())
        self._unread_metadata: list[str] = []
        self._is_complete = True  # no item was planned before, so all captions were asked for

    def items(self) -> Iterator[ListedItem]:
        open_folders = [self._entries("", None)]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, tuple):
                yield entry
            else:
                open_folders.append(entry)
        if self._is_complete and self._reports_others:
            for name in self.captions.unused():
                self.report.unused_captions.add(name)
        for path in sorted(self._missing):
            yield MediaItem(stem_of(path), path).refused("missing", "the file does not exist"), None

    def _entries(self, prefix: str, parent: Folder | None) -> Iterator[ListedItem | Iterator[ListedItem]]:
        """Yield the items of one folder and, among them, the entries of its folders."""
        try:
            folder = self._walk.enter(prefix, parent)
        except RefusedInput as refused:
            if not prefix:
                raise UsageError(f"{self.root}: cannot be listed: {refused}") from refused
            self.report.skip(UNREADABLE, prefix)
            yield MediaItem(prefix, prefix).refused(refused.reason, f"the folder: {refused.detail}"), None
            return
        if folder is None:
            return
        if self._missing:
            self._missing.difference_update(prefix + name.rstrip("/") for name in folder.names)
        media = [name for name in folder.names if self._is_media(prefix, name)]
        self._find_metadata(folder, parent, media)
        keys = dict(zip(media, unique_keys([name.rstrip("/") for name in media])))
        planned, caption_files = self._planned(prefix, keys), CaptionFiles(folder.names)
        for name in folder.names:
            if name in keys:
                caption_file = caption_files.use(name.rstrip("/"))
                if name in planned:
                    continue
                item = MediaItem(prefix + keys[name], prefix + name.rstrip("/"), kind=kind_of(name))
                if (listed := self._listed(item, prefix + caption_file if caption_file else None)) is not None:
                    yield listed
            elif name.endswith("/") and self._walk.is_chosen(prefix + name):
                yield self._entries(prefix + name, folder)  # type: ignore[misc]
        if self._reports_others:
            self._report_others(prefix, folder.names, keys, caption_files)

    def _planned(self, prefix: str, keys: Mapping[str, str]) -> set[str]:
        """Return names in a folder whose keys are planned; for one of them, `is_planned` may stop the listing."""
        if self._planned_keys is None:
            return set()
        are_planned = self._planned_keys.has_each([prefix + key for key in keys.values()])
        return set(list(compress(keys, are_planned))[1:])

    def _find_metadata(self, folder: Folder, parent: Folder | None, media: Collection[str]) -> None:
        """Find the metadata files in a folder and in its folders: their rows may be about the folders beside them."""
        if parent is None or not self._searches_ahead(parent):
            self._unread_metadata += [folder.prefix + name for name in METADATA_FILES if name in folder.names]
        if self._searches_ahead(folder):
            others = set(folder.names).difference(media)
            inner = [folder.prefix + name for name in folder.names if name.endswith("/") and name in others]
            paths = (path + name for path in filter(self._walk.is_chosen, inner) for name in METADATA_FILES)
            self._unread_metadata += [path for path in paths if is_file(self.root / path)]

    def _searches_ahead(self, folder: Folder) -> bool:
        folders = (name for name in folder.names if name.endswith("/"))
        return is_local(self.root) or next(islice(folders, MAX_REMOTE_BESIDE, None), None) is None

    def _report_others(self, prefix: str, names: list[str], media: Iterable[str], captions: CaptionFiles) -> None:
        for name in captions.unused():
            self.report.unused_captions.add(prefix + name)
        for name in names:
            if not (name in media or name.endswith("/") or name in METADATA_FILES or name in captions.names):
                self.report.skip_file(prefix + name)

    def _listed(self, item: MediaItem, caption_path: str | None) -> ListedItem | None:
        """Return an item with its caption, or with the path of its caption file; None if it is planned."""
        if self.is_planned(item):
            self._is_complete = False
            return None
        while self._unread_metadata:
            self._read_metadata(self._unread_metadata.pop(0))
        captioned = self.captions.add_to(item)
        return (item, caption_path) if captioned is None else (captioned, None)

    def _read_metadata(self, path: str) -> None:
        self.captions.read(self.root / path, path[: path.rfind("/") + 1], self.root)

    def _is_media(self, prefix: str, name: str) -> bool:
        if not self._walk.is_chosen(prefix + name):
            return False
        if not name.endswith("/"):
            return is_media(name)
        try:
            return is_frame_folder(name) and any(map(is_frame, self._walk.names(prefix + name)))
        except RefusedInput:
            return False


class CaptionFiles:
    """The caption files of a folder: `cat.txt`, `cat.caption` or `cat.jpg.txt` for `cat.jpg`, in any case."""

    def __init__(self, names: Iterable[str]):
        candidates = (name for name in names if name.lower().endswith(CAPTION_SUFFIXES))  # rarely any
        self.names = {name for name in candidates if suffix_of(name) in CAPTION_SUFFIXES}
        ordered = sorted(self.names, key=lambda name: CAPTION_SUFFIXES.index(suffix_of(name)))
        self._by_stem = {_composed(stem_of(name)): name for name in ordered}
        self._used: set[str] = set()

    def use(self, name: str) -> str | None:
        """Return the caption file of an image or video."""
        if not self._by_stem:
            return None
        found = [stem for stem in (_composed(stem_of(name)), _composed(name)) if stem in self._by_stem]
        self._used.update(found[:1])
        return self._by_stem[found[0]] if found else None

    def unused(self) -> list[str]:
        return sorted(name for stem, name in self._by_stem.items() if stem not in self._used)


def _composed(name: str) -> str:
    """Return one spelling of names that look the same: Macs store `é` as `e` and an accent."""
    return unicodedata.normalize("NFC", name)


def unique_keys(names: list[str]) -> list[str]:
    """Return a key for each name of a folder: without the suffix where that is unique.

    If an image and a video share a name, the image gets the key without the suffix.
    """
    all_names, stems = set(names), list(map(stem_of, names))
    if len(set(stems)) == len(stems) and all_names.isdisjoint(stems):
        return stems
    kinds = list(map(kind_of, names))
    counts = Counter(zip(stems, kinds))
    keys = []
    for name, stem, kind in zip(names, stems, kinds):
        count = counts[stem, "image"] + (counts[stem, "video"] if kind == "video" else 0)
        keys.append(stem if count == 1 and stem not in all_names else name)
    return keys
