"""Lists of images and videos: `.json`, `.jsonl`, or lines of standard input."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.dataset.conversations import conversation_extra
from shared.errors import RefusedInput, UsageError
from vq_stage.sources.captions import json_lines, open_list, parse_json, text_lines
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.media_types import kind_of, stem_of

EXPECTED = "{name|key, image|video, text} or {id, image|video, conversations}"


@dataclass(frozen=True)
class ListSource(MediaSource):
    """Entries of a `.json` or `.jsonl`, which is read as it is listed. Their paths are relative to its folder."""

    path: Path

    def _items(self) -> Iterator[MediaItem]:
        with open_list(self.path) as file:
            if self.path.suffix == ".jsonl":
                yield from entry_items(json_lines(file, str(self.path)))
                return
            entries = parse_json("".join(text_lines(file, str(self.path))), str(self.path))
        if not isinstance(entries, list):
            raise UsageError(f"{self.path}: expected a list of {EXPECTED}, got {type(entries).__name__}")
        yield from entry_items(entries)

    def _nothing_found(self) -> str:
        return f"{self.path}: no images or videos found; expected entries {EXPECTED}"


@dataclass(frozen=True)
class StandardInput(MediaSource):
    """A path or URL a line, or an entry as in a `.jsonl`; paths are relative to `root`, the working directory."""

    def _items(self) -> Iterator[MediaItem]:
        for number, line in enumerate(sys.stdin.buffer, 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
            if text.lstrip().startswith("{"):
                yield entry_item(number, parse_json(text, f"standard input: line {number}"))
            elif text:
                yield MediaItem(stem_of(text), text, kind=kind_of(text))

    def _nothing_found(self) -> None:
        """A job that is resumed need not be told again what it has planned."""


def entry_items(entries: Iterable[object]) -> Iterator[MediaItem]:
    for number, entry in enumerate(entries, 1):
        yield entry_item(number, entry)


def entry_item(number: int, entry: object) -> MediaItem:
    """The item of the `number`-th entry; refused as `bad_entry` if it does not say what is needed."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    named = fields.get("key", fields.get("name", fields.get("id") if "conversations" in fields else None))
    key = None if named is None or named == "" else str(named)
    try:
        kind, uri = _medium(fields, entry)
    except RefusedInput as refused:
        return MediaItem(key or f"entry-{number}", "").refused(refused.reason, f"entry {number}: {refused.detail}")
    item = MediaItem(key or stem_of(uri), uri, kind=kind)
    try:
        return MediaItem(item.key, uri, _text(fields), kind, extra=_extra(fields) or None)
    except RefusedInput as refused:
        return item.refused(refused.reason, f"entry {number}: {refused.detail}")


def _medium(fields: dict[str, Any], entry: object) -> tuple[str, str]:
    """(kind, uri). An `image` that is a video by its suffix is one."""
    given = {kind: fields[kind] for kind in ("image", "video") if fields.get(kind) is not None}
    if len(given) > 1:
        raise RefusedInput("bad_entry", "expected `image` or `video`, got both; write an entry for each")
    kind, uri = next(iter(given.items()), ("image", None))
    if isinstance(uri, list):
        raise RefusedInput("bad_entry", f"expected one `{kind}`, got a list of {len(uri)}; write an entry for each")
    if not isinstance(uri, str) or not uri:
        raise RefusedInput("bad_entry", f"expected `image` or `video`, a path, got {entry!r:.100}")
    return ("video" if kind == "video" else kind_of(uri)), uri


def _text(fields: dict[str, Any]) -> str | None:
    text = fields.get("text")
    if text is not None and not isinstance(text, str):
        raise RefusedInput("bad_entry", "`text` is not a string")
    return text


def _extra(fields: dict[str, Any]) -> dict[str, Any]:
    """Conversations, and the rate of a folder of frames."""
    extra = dict(conversation_extra(fields["conversations"])) if "conversations" in fields else {}
    if (fps := fields.get("fps")) is not None:
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise RefusedInput("bad_entry", f"`fps`: expected a number above 0, got {fps!r:.100}")
        extra["fps"] = fps
    return extra
