"""Lists of images and videos: `.json`, `.jsonl`, or lines on standard input."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

from shared.dataset.conversations import conversation_extra
from shared.errors import RefusedInput, UsageError
from shared.storage.small_files import parse_json
from vq_stage.sources.captions import json_lines, open_list, text_lines
from vq_stage.sources.media_source import MediaItem, MediaSource, as_extra_json
from vq_stage.sources.media_types import kind_of, stem_of

EXPECTED = "{name|key, image|video, text} or {id, image|video, conversations}"


@dataclass(frozen=True)
class ListSource(MediaSource):
    """Entries of a `.json` or `.jsonl` file, read while they are listed. Paths are relative to the file's folder."""

    path: Path

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        with open_list(self.path) as file:
            if self.path.suffix == ".jsonl":
                yield from starmap(entry_item, enumerate(json_lines(file, str(self.path)), 1))
                return
            entries = parse_json("".join(text_lines(file, str(self.path))), str(self.path))
        if not isinstance(entries, list):
            raise UsageError(f"{self.path}: expected a list of {EXPECTED}, got {type(entries).__name__}")
        yield from starmap(entry_item, enumerate(entries, 1))

    def _empty_message(self) -> str:
        return f"{self.path}: no images or videos found; expected entries {EXPECTED}"


@dataclass(frozen=True)
class StandardInput(MediaSource):
    """One path, URL or JSON entry per line; paths are relative to `root`, the working directory."""

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        for number, line in enumerate(sys.stdin.buffer, 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").rstrip("\r\n")
            if text.lstrip().startswith("{"):
                yield entry_item(number, parse_json(text, f"standard input: line {number}"))
            elif text:
                yield MediaItem(stem_of(text), text, kind=kind_of(text))

    def _empty_message(self) -> None:
        """Return None: a resumed job does not need the list again."""


def entry_item(number: int, entry: object) -> MediaItem:
    """Return the item of an entry, counted from 1; refused as `bad_entry` if a field is missing or wrong."""
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    named = fields.get("key", fields.get("name", fields.get("id") if "conversations" in fields else None))
    key = None if named is None or named == "" else str(named)
    try:
        kind, uri = _medium(fields, entry)
    except RefusedInput as refused:
        return MediaItem(key or f"entry-{number}", "").refused(refused.reason, f"entry {number}: {refused.detail}")
    item = MediaItem(key or stem_of(uri), uri, kind=kind)
    try:
        return replace(item, text=_text(fields), extra_json=as_extra_json(_extra(fields)))
    except RefusedInput as refused:
        return item.refused(refused.reason, f"entry {number}: {refused.detail}")


def _medium(fields: dict[str, Any], entry: object) -> tuple[str, str]:
    """Return (kind, uri). An `image` whose suffix is that of a video is a video."""
    media = {kind: fields[kind] for kind in ("image", "video") if fields.get(kind) is not None}
    if len(media) > 1:
        raise RefusedInput("bad_entry", "expected `image` or `video`, got both; write one entry for each")
    kind, uri = next(iter(media.items()), ("image", None))
    if isinstance(uri, list):
        raise RefusedInput("bad_entry", f"expected one `{kind}`, got a list of {len(uri)}; write one entry for each")
    if not isinstance(uri, str) or not uri:
        raise RefusedInput("bad_entry", f"expected `image` or `video`, a path, got {entry!r:.100}")
    return ("video" if kind == "video" else kind_of(uri)), uri


def _text(fields: dict[str, Any]) -> str | None:
    text = fields.get("text")
    if text is not None and not isinstance(text, str):
        raise RefusedInput("bad_entry", f"`text`: expected a string, got {text!r:.100}")
    return text


def _extra(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what the row keeps: the conversation, and the frame rate of a folder of frames."""
    extra = dict(conversation_extra(fields["conversations"])) if "conversations" in fields else {}
    if (fps := fields.get("fps")) is not None:
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise RefusedInput("bad_entry", f"`fps`: expected a number above 0, got {fps!r:.100}")
        extra["fps"] = fps
    return extra
