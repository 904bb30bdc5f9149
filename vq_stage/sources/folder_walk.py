"""Entering the folders of a source: names in order, without hidden ones, loops and what this program wrote itself."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import RefusedInput
from shared.storage.paths import is_local
from vq_stage.sources.files import refusing_unreadable
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.media_types import is_media, is_system_name

MAX_LISTINGS = 16  # of one folder through different links: links to links could multiply without end
HIDDEN_FILES, HIDDEN_FOLDERS = "hidden or system files", "hidden or system folders"
LOOPS = "links to a folder that contains them"
REPEATED_FOLDERS = f"links to folders that were read {MAX_LISTINGS} times"
BROKEN_LINKS = "broken links"
UNREADABLE = "folders that cannot be read"

DECODED_FILES = "folders of decoded files"
# A folder is output of this program if it has all the names of a pair, and any of them if there are several.
OWN_OUTPUT = {
    "datasets of codes": (
        ("plan.arrow", ("parts/", "shards/", "manifest.json", "events.jsonl", ".lock")),
        ("events.jsonl", ("parts/", "shards/")),
    ),
    DECODED_FILES: ((".emu3-decode.json", ()),),
    "training runs": (
        ("options.json", ("checkpoints/", "train_log.jsonl")),
        ("train_options.json", ("train_state.safetensors",)),
    ),
    "exported datasets": (
        ("__emu3__/", ("codes-00000.tar", "codes-00000.parquet")),
        ("manifest.json", ("codes-00000.tar", "codes-00000.parquet")),  # of version 0.1
    ),
}

# What this program writes into such a folder: all that is left out of it if it is the source itself.
OWN_FILES = re.compile(
    r"(parts|shards|index|texts|quarantine|damaged|claims|partial|checkpoints|model|adapter|tensorboard|__emu3__)/"
    r"|loss\.png|plan(-\d+)?\.arrow|codes-\d{5}\.(tar|parquet)|(manifest|canary|options|train_options)\.json|events\.jsonl"
)

Identity = tuple[int, int]  # device and inode


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that was entered: its path, empty or ending in `/`, and its sorted names; those of folders end in `/`.

    `lineage` has the identities of the folder and of those that contain it; `is_linked` if one of them is a link.
    """

    prefix: str
    names: list[str]
    lineage: tuple[Identity | None, ...] = ()
    is_linked: bool = False


class FolderWalk:
    """Enters the folders below `root`, or only those that lead to the `chosen` paths; skips are counted in `report`.

    Links to folders are followed. A folder that two links lead to is listed under both paths.
    With `includes_own`, what this program wrote is listed like everything else.
    """

    def __init__(
        self, root: Path, report: ListingReport, chosen: Collection[str] | None = None, includes_own: bool = False
    ):
        self.root = root
        self.report = report
        self._includes_own = includes_own
        self._chosen = chosen
        self._around_chosen = {path[: end + 1] for path in chosen or () for end in _separators(path)}
        self._listings: Counter[Identity] = Counter()

    def enter(self, prefix: str = "", parent: Folder | None = None) -> Folder | None:
        """Return a folder; None if it is skipped. Raises RefusedInput if it cannot be listed."""
        identity, is_link = _identity(self.root / prefix)
        is_linked = parent is not None and (is_link or parent.is_linked)
        lineage = parent.lineage if parent else ()
        if identity is not None and identity in lineage:
            self.report.skip(LOOPS, prefix)
            return None
        if is_linked and identity is not None:
            self._listings[identity] += 1
            if self._listings[identity] > MAX_LISTINGS:
                self.report.skip(REPEATED_FOLDERS, prefix)
                return None
        names = self.names(prefix)
        own = None if self._includes_own else own_output(names)
        if prefix and own:
            self.report.skip(f"{own} of this program", prefix)
            return None
        if own and own != DECODED_FILES:
            names = self._without_own_files(names, own)
        return Folder(prefix, [name for name in names if self._is_kept(prefix, name)], (*lineage, identity), is_linked)

    def folders(self) -> Iterator[Folder]:
        """Yield the root and all folders below it, depth first. Raises RefusedInput if the root cannot be listed."""
        pending: list[tuple[str, Folder | None]] = [("", None)]
        while pending:
            prefix, parent = pending.pop()
            try:
                folder = self.enter(prefix, parent)
            except RefusedInput:
                if not prefix:
                    raise
                self.report.skip(UNREADABLE, prefix)
                continue
            if folder is not None:
                yield folder
                inner = sorted((prefix + name[:-1] for name in folder.names if name.endswith("/")), reverse=True)
                pending += [(f"{path}/", folder) for path in inner if self.is_chosen(f"{path}/")]

    def names(self, prefix: str) -> list[str]:
        """Return all names in a folder, sorted; those of folders end in `/`, so that whole paths are sorted too.

        Raises RefusedInput.
        """
        with refusing_unreadable():
            folder = self.root / prefix
            return sorted(self._local_names(folder, prefix) if is_local(folder) else _remote_names(folder))

    def is_chosen(self, path: str) -> bool:
        """Return whether a path is chosen, is below a chosen folder, or is a folder that contains chosen paths."""
        if self._chosen is None or path in self._around_chosen or path.rstrip("/") in self._chosen:
            return True
        return any(path[:end] in self._chosen for end in _separators(path))

    def _without_own_files(self, names: list[str], own: str) -> list[str]:
        for name in filter(OWN_FILES.fullmatch, names):
            self.report.skip(f"files of {own} of this program", name)
        return [name for name in names if not OWN_FILES.fullmatch(name)]

    def _is_kept(self, prefix: str, name: str) -> bool:
        if not is_system_name(name) or (self._chosen is not None and f"{prefix}{name}".rstrip("/") in self._chosen):
            return True
        self.report.skip(HIDDEN_FOLDERS if name.endswith("/") else HIDDEN_FILES, prefix + name)
        return False

    def _local_names(self, folder: Path, prefix: str) -> Iterator[str]:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder = _is_folder(entry)
                if is_folder or not entry.is_symlink() or is_media(entry.name) or not _is_broken_link(entry):
                    yield f"{entry.name}/" if is_folder else entry.name
                else:
                    self.report.skip(BROKEN_LINKS, prefix + entry.name)


def own_output(names: Collection[str]) -> str | None:
    """Return what a folder of these names is, if this program wrote it; its files are never media to encode."""
    for kind, pairs in OWN_OUTPUT.items():
        for name, others in pairs:
            if name in names and (not others or any(other in names for other in others)):
                return kind
    return None


def own_folders(root: Path, paths: Iterable[str]) -> set[str]:
    """Return the folders below `root` that contain these local paths and that this program wrote; each ends in `/`."""
    folders = {path[: end + 1] for path in paths for end in _separators(path)} if is_local(root) else ()
    return {folder for folder in folders if own_output(FolderWalk(root, ListingReport()).names(folder))}


def _separators(path: str) -> Iterator[int]:
    return (index for index, character in enumerate(path) if character == "/")


def _identity(folder: Path) -> tuple[Identity | None, bool]:
    """Return the identity of a folder and whether its path is a link; None for remote ones and where it is unknown."""
    if not is_local(folder):
        return None, False
    try:
        followed, itself = os.stat(folder), os.lstat(folder)
    except OSError:
        return None, False
    identity = (followed.st_dev, followed.st_ino)
    return (identity if followed.st_ino else None), identity != (itself.st_dev, itself.st_ino)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads nowhere."""
    try:
        return not os.path.exists(entry.path)
    except OSError:
        return True


def _remote_names(folder: Path) -> Iterator[str]:
    """Yield the names in a remote folder; some stores list a folder as an object within itself."""
    remote: Any = folder
    itself = remote.path.rstrip("/")
    for info in remote.fs.ls(itself, detail=True):
        path = info["name"].rstrip("/")
        if path != itself and path != itself.lstrip("/"):
            name = path.rpartition("/")[2]
            yield f"{name}/" if info["type"] == "directory" else name
