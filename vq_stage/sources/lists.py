"""Lists of images and videos: `.json`, `.jsonl`, or lines on standard input."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.dataset.conversations import media_parts
from shared.dataset.known_keys import KnownKeys
from shared.errors import RefusedInput
from shared.storage.json_values import JsonValue, limited_lines, parsed_line
from shared.storage.paths import as_path, is_local
from shared.storage.temporary_database import naming_the_disk
from vq_stage.sources.annotations import Annotation
from vq_stage.sources.field_names import (
    CONVERSATION_NAMES,
    FILE_NAMES,
    IMAGE_NAMES,
    VIDEO_NAMES,
    first_value,
    is_present,
)
from vq_stage.sources.files import refusing_unreadable
from vq_stage.sources.item_groups import ItemGroups
from vq_stage.sources.list_files import listed_values
from vq_stage.sources.media_source import MediaItem, MediaSource, checked_text
from vq_stage.sources.media_types import is_frame_folder, kind_of, stem_of

KEY_NAMES = ("key", "name")
EXPECTED = "{image|video, text|conversations, key}"
MAX_FPS = 1000


@dataclass(frozen=True)
class ListSource(MediaSource):
    """Entries of a `.json` or `.jsonl` file; paths are relative to `root`, by default the file's folder.

    Entries about the same image or video are one item, unless they have different keys. `key_field` is the field with
    the keys, by default one of `KEY_NAMES`.
    """

    path: Path
    key_field: str | None = None

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        with naming_the_disk(), closing(ItemGroups()) as groups:
            groups.add(self._entries(), is_planned)
            yield from groups.items()

    def files(self) -> Iterator[Path]:
        """Yield the files that entries name, each once, with the frames of folders. A file may be missing."""
        known = KnownKeys()
        for item in (checked_text(item) for _, item in self._entries()):
            if item.refusal or not known.is_new(item.uri):
                continue
            with suppress(RefusedInput), refusing_unreadable():
                uris = self.frames(item.uri) if is_frame_folder(item.uri) else [item.uri]
                yield from [self._path(uri) for uri in uris]

    def _entries(self) -> Iterator[tuple[str, MediaItem]]:
        """Yield what `entry_item` returns for each entry; entries without an image or a video are counted."""
        for value in self._values():
            try:
                yield entry_item(value, self.root, self.key_field)
            except NoMedium:
                self.report.skip("entries without an image or a video", value.where)

    def _values(self) -> Iterator[JsonValue]:
        return listed_values(self.path)

    def _empty_message(self) -> str | None:
        skipped = "".join(f"; {tally.text(things)}" for things, tally in self.report.skipped.items())
        return f"{self.path}: no images or videos found{skipped}; expected entries {EXPECTED}"


@dataclass(frozen=True)
class StandardInput(ListSource):
    """One path, URL or JSON entry per line; paths are relative to `root`, by default the working directory."""

    path: Path = Path("standard input")

    def _values(self) -> Iterator[JsonValue]:
        for number, line in enumerate(limited_lines(sys.stdin.buffer), 1):
            if line is None or line.lstrip().startswith(b"{"):
                yield parsed_line(number, line)
            elif path := line.decode("utf-8", "surrogateescape").rstrip("\r\n"):
                yield JsonValue(number, f"line {number}", path)

    def _empty_message(self) -> None:
        """Return None: a resumed job does not need the list again."""


class NoMedium(Exception):
    """An entry that names neither an image nor a video, such as a conversation of text only."""


def entry_item(value: JsonValue, root: Path, key_field: str | None = None) -> tuple[str, MediaItem]:
    """Return the item of an entry, after a string that is equal for all entries of one item.

    The item is refused if a field is wrong. Raises NoMedium.
    """
    item = MediaItem(f"entry-{value.number}", "", other_keys=(f"entry-{value.number}",))
    try:
        fields = _fields(value)
        if (own_key := _key(fields, key_field)) is not None:
            item = replace(item, key=own_key)
        kind, uri = _medium(fields)
        path = normal_path(uri, root)
        key = own_key or _id(fields) or stem_of(path)
        others = (path,) if own_key else (stem_of(uri), path)
        item = MediaItem(key, uri, kind=kind, other_keys=others)
        labels = _frame_rate(fields)
        annotated = Annotation.from_fields(fields, labels).add_to(item)
        return "\0".join((kind, path, own_key or "", str(labels))), annotated
    except RefusedInput as refused:
        return "", item.refused(refused.reason, f"{value.where}: {refused.detail}")


def normal_path(uri: str, root: Path) -> str:
    """Return the same path for every way to write it: relative to `root` if it is below it. A URL stays as it is."""
    if "://" in uri and not uri.startswith("file://"):
        return uri
    path = os.path.expanduser(str(as_path(uri)) if "://" in uri else uri).replace("\\", "/")
    if path.startswith("/") and is_local(root):
        path = path.removeprefix(_absolute(root))
    return unicodedata.normalize("NFC", os.path.normpath(path))


@lru_cache(maxsize=16)
def _absolute(root: Path) -> str:
    return os.path.join(os.path.abspath(root), "")


def _fields(value: JsonValue) -> Mapping[str, Any]:
    if value.error:
        raise RefusedInput("bad_entry", value.error)
    if isinstance(value.value, str):
        return {"file": value.value}
    if not isinstance(value.value, dict):
        raise RefusedInput("bad_entry", f"expected {EXPECTED}, got {value.value!r:.100}")
    return value.value


def _key(fields: Mapping[str, Any], key_field: str | None) -> str | None:
    """Return the key that an entry gives its row; None if it gives none."""
    value = first_value(fields, KEY_NAMES if key_field is None else (key_field.lower(),))
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise RefusedInput("bad_entry", f"`{key_field or 'key'}`: expected a string or a number, got {value!r:.100}")
    return None if value is None else str(value)


def _id(fields: Mapping[str, Any]) -> str | None:
    """Return the `id` of an entry with a conversation; some lists identify the image by it, others the conversation."""
    value = fields.get("id") if first_value(fields, CONVERSATION_NAMES) is not None else None
    return str(value) if isinstance(value, str | int) and value != "" else None


def _medium(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return (kind, uri). An `image` whose suffix is that of a video is a video. Raises RefusedInput or NoMedium."""
    found = [(kind, first_value(fields, names)) for kind, names in (("image", IMAGE_NAMES), ("video", VIDEO_NAMES))]
    media = [(kind, value) for kind, value in found if value is not None]
    if not media and (value := first_value(fields, FILE_NAMES)) is not None:
        media = [("image", value)]
    media = media or list(media_parts(first_value(fields, CONVERSATION_NAMES)))
    if not media:
        raise NoMedium
    if len(media) > 1:
        raise RefusedInput("bad_entry", "expected `image` or `video`, got both, or several; write one entry for each")
    kind, uri = media[0][0], _uri(*media[0])
    return ("video" if kind == "video" else kind_of(uri)), uri


def _uri(kind: str, value: object) -> str:
    """Return the path or URL in a field: a string, an object with a path, or a list of one of them."""
    if isinstance(value, list):
        if len(value) != 1:
            raise RefusedInput("bad_entry", f"expected one `{kind}`, got {len(value)}; write one entry for each")
        value = value[0]
    if isinstance(value, dict):
        value = first_value(value, FILE_NAMES)
    if not isinstance(value, str) or not value:
        raise RefusedInput("bad_entry", f"`{kind}`: expected a path or URL, got {value!r:.100}")
    if value.startswith("data:"):
        raise RefusedInput("bad_entry", f"`{kind}`: expected a path or URL, got the content itself; save it as a file")
    return value


def _frame_rate(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return the `fps` of an entry, for folders of frames, as a label."""
    fps = fields.get("fps")
    if not is_present(fps):
        return {}
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
        raise RefusedInput("bad_entry", f"`fps`: expected a number above 0 and up to {MAX_FPS}, got {fps!r:.100}")
    return {"fps": fps}
