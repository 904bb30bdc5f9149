"""What there is to encode: a folder of images, or a list of them, with captions."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from shared.errors import UsageError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
    | {".pnm", ".jp2", ".avif", ".apng", ".tga", ".ico"}
)
METADATA_FILES = ("metadata.jsonl", "captions.csv")


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One input: unique key, path relative to the source's folder, caption."""

    key: str
    uri: str
    text: str | None = None
    refusal: tuple[str, str] | None = None

    def refused(self, reason: str, detail: str) -> MediaItem:
        return replace(self, refusal=(reason, detail))


@dataclass(frozen=True, slots=True)
class Source:
    """A listed source. Paths of its items are relative to `root`, so a moved folder is the same source."""

    root: Path
    items: tuple[MediaItem, ...]

    def path(self, uri: str) -> Path:
        return self.root / uri


def list_source(location: str | Path) -> Source:
    """Lists a folder of images, or a `.json`/`.jsonl` list of `{name|key, image, text}`, in a stable order.

    Captions of a folder: `picture.txt` beside `picture.png`, or `metadata.jsonl` (`file_name`, `text`) or
    `captions.csv` (`file_name`, `text`) in any of its folders. Files without an image's suffix are passed over.
    Raises UsageError if there is nothing to encode or a list cannot be read.
    """
    path = Path(location)
    if path.is_dir():
        source = Source(path, tuple(_list_folder(path)))
    elif path.suffix in (".json", ".jsonl") and path.is_file():
        source = Source(path.parent, tuple(_list_entries(path)))
    else:
        raise UsageError(f"{path}: expected a folder of images or a .json/.jsonl list; it is neither")
    if not source.items:
        raise UsageError(f"{path}: no images found; expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}")
    return source


def _list_folder(root: Path) -> Iterator[MediaItem]:
    images: list[str] = []
    sidecars: set[str] = set()
    captions: dict[str, str] = {}
    for folder, directories, files in os.walk(root):
        directories.sort()
        place = PurePosixPath(Path(folder).relative_to(root).as_posix())
        images += [str(place / name) for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
        sidecars |= {str(place / name) for name in files if name.endswith(".txt")}
        for name in METADATA_FILES:
            if name in files:
                captions |= {str(place / file): text for file, text in _read_captions(Path(folder) / name)}
    stems, uris = Counter(_stem(uri) for uri in images), set(images)
    items = []
    for uri in sorted(images):
        stem = _stem(uri)
        item = MediaItem(stem if stems[stem] == 1 and stem not in uris else uri, uri, captions.get(uri))
        if item.text is None and f"{stem}.txt" in sidecars:
            item = _with_sidecar(item, root / f"{stem}.txt")
        items.append(item)
    return _refuse_duplicates(items)


def _stem(uri: str) -> str:
    return str(PurePosixPath(uri).with_suffix(""))


def _with_sidecar(item: MediaItem, path: Path) -> MediaItem:
    try:
        return replace(item, text=path.read_text(encoding="utf-8-sig").strip())
    except (OSError, UnicodeDecodeError) as error:
        return item.refused("caption_unreadable", f"{path.name}: {error}")


def _read_captions(path: Path) -> Iterator[tuple[str, str]]:
    text = _read_text(path)
    rows = csv.DictReader(io.StringIO(text, newline="")) if path.suffix == ".csv" else _json_lines(path, text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "text" not in row:
            raise UsageError(f"{path}: row {number}: expected `file_name` and `text`, got {row!r:.100}")
        if row["text"] is not None:
            yield row["file_name"], str(row["text"])


def _list_entries(path: Path) -> Iterator[MediaItem]:
    text = _read_text(path)
    try:
        entries = list(_json_lines(path, text)) if path.suffix == ".jsonl" else json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(f"{path}: expected a list of {{name|key, image, text}}, got {type(entries).__name__}")
    return _refuse_duplicates([_entry_item(number, entry) for number, entry in enumerate(entries, 1)])


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8: {error}; save it as UTF-8") from error


def _entry_item(number: int, entry: object) -> MediaItem:
    fields = entry if isinstance(entry, dict) else {}
    image, key, text = fields.get("image"), fields.get("key", fields.get("name")), fields.get("text")
    if not isinstance(image, str) or not image:
        place = str(key) if key else f"entry-{number}"
        return MediaItem(place, "").refused("bad_entry", f"entry {number}: expected `image`, got {entry!r:.100}")
    if text is not None and not isinstance(text, str):
        return MediaItem(str(key or image), image).refused("bad_entry", f"entry {number}: `text` is not a string")
    return MediaItem(str(key) if key else _stem(image), image, text)


def _json_lines(path: Path, text: str) -> Iterator[object]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{path}: line {number}: not JSON: {error}") from error


def _refuse_duplicates(items: Iterable[MediaItem]) -> Iterator[MediaItem]:
    seen: dict[str, str] = {}
    for item in map(_as_text, items):
        if item.key in seen:
            item = item.refused("duplicate_key", f"key {item.key!r} is taken by {seen[item.key]}")
        seen.setdefault(item.key, item.uri)
        yield item


def _as_text(item: MediaItem) -> MediaItem:
    """The item; refused, with escapes in its name, if the name or caption is not valid Unicode."""
    try:
        "".join((item.key, item.uri, item.text or "")).encode()
    except UnicodeEncodeError as error:
        key, uri = (name.encode(errors="backslashreplace").decode() for name in (item.key, item.uri))
        return MediaItem(key, uri).refused("bad_name", f"name or caption is not valid Unicode: {error.reason}")
    return item
