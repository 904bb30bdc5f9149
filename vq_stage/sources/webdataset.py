"""WebDataset shards: tars in which consecutive members with the same name form a sample."""

from __future__ import annotations

import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from shared.dataset.conversations import conversation_extra
from shared.errors import RefusedInput, UsageError
from vq_stage.sources.files import open_file, open_part, refusing_unreadable
from vq_stage.sources.media_source import Locator, MediaItem, MediaSource, as_extra_json
from vq_stage.sources.media_types import is_media, kind_of, stem_of

# The name up to the first dot, then the field. Source: WebDataset, base_plus_ext.
SAMPLE_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
SHARD_END = re.compile(r"\.tar/", re.IGNORECASE)
CAPTION_SUFFIXES = ("txt", "caption")
CAPTION_FIELDS = ("caption", "text", "prompt")
MAX_CAPTION_BYTES = 1 << 20
MAX_EXTRA_CHARACTERS = 1000  # longer strings are not labels, and are not kept
HEADERS_BLOCK_BYTES = 8 << 20  # each member follows its header, so listing reads most of a remote shard
DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError, KeyError, IndexError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a shard; `sample` and `suffix` are its name before and after the first dot."""

    name: str
    sample: str
    suffix: str
    locator: Locator
    refusal: str | None = None


@dataclass(frozen=True)
class WebDatasetSource(MediaSource):
    """Samples of tars in their order; `shards` maps paths relative to `root` to files. Nothing is extracted."""

    shards: Mapping[str, Path] = field(repr=False)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        for name, path in self.shards.items():
            yield from ShardScan(name, path, is_planned).items()

    def _empty_message(self) -> str:
        return (
            f"{self.root}: no images or videos found in {len(self.shards)} tars; expected members such as 000.jpg and"
            " 000.txt"
        )

    def open(self, uri: str, locator: Locator | None = None) -> BinaryIO:
        """Open the member at a locator, (offset, size) in bytes. Raises RefusedInput."""
        if locator is None or not (shards := [uri[: end.end() - 1] for end in SHARD_END.finditer(uri)]):
            raise RefusedInput("missing", "it was not planned as a member of a tar")
        # Folders and members may end in .tar as well, but hardly ever do.
        shard = next((shard for shard in shards[:-1] if self._path(shard).is_file()), shards[-1])
        return open_part(self._path(shard), *locator)


class ShardScan:
    """One pass over the headers of a shard. Captions of planned samples are not read."""

    def __init__(self, name: str, path: Path, is_planned: Callable[[MediaItem], bool]):
        self.name = name
        self.path = path
        self.is_planned = is_planned

    def items(self) -> Iterator[MediaItem]:
        """Yield all samples; for a truncated or damaged shard, those before the damage and one refused item."""
        try:
            file = open_file(self.path, block_bytes=HEADERS_BLOCK_BYTES)
        except RefusedInput as refused:
            yield self._damaged(refused)
            return
        with file, closing(self._members(file)) as members:
            refusals: list[RefusedInput] = []
            for sample, group in groupby(_until_refused(members, refusals), key=lambda member: member.sample):
                yield from self._sample_items(file, sample, list(group))
            if refusals:
                yield self._damaged(refusals[0])

    def _members(self, file: BinaryIO) -> Generator[Member, None, None]:
        """Yield the members in order. Raises RefusedInput `truncated` where the tar ends without its end mark."""
        head = file.read(2)
        if head == b"\x1f\x8b":
            raise UsageError(f"{self.path}: a compressed tar cannot be read in part; decompress it first")
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (header := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
                    if header.size < 0 or (header.isreg() and header.offset_data + header.size > size):
                        raise RefusedInput("truncated", f"ends within {header.name}")
                    if (member := _member(header)) is not None:
                        yield member
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise RefusedInput(
                        "truncated", f"truncated or damaged at byte {tar.offset} of {size}: no end-of-archive mark"
                    )
        except OSError as error:
            raise RefusedInput("unreadable", f"{error!r:.200}") from error
        except DAMAGED as error:
            raise RefusedInput("truncated", f"not a complete tar: {error!r:.200}") from error

    def _sample_items(self, file: BinaryIO, sample: str, members: list[Member]) -> Iterator[MediaItem]:
        media = [member for member in members if member.refusal is None and is_media(member.name)]
        items = []
        for member in members:
            uri = f"{self.name}/{member.name}"
            if member.refusal is not None:
                items.append(MediaItem(member.name, uri).refused("bad_name", member.refusal))
            elif is_media(member.name):
                key = sample if len(media) == 1 else member.name.removeprefix("./")
                items.append(MediaItem(key, uri, kind=kind_of(member.name), locator=member.locator))
        if media and not all(map(self.is_planned, items)):
            items = _captioned(items, file, members)
        yield from items

    def _damaged(self, refused: RefusedInput) -> MediaItem:
        return MediaItem(f"{stem_of(self.name)}-damaged", self.name).refused(
            refused.reason, f"the shard: {refused.detail}"
        )


def _until_refused(members: Iterator[Member], refusals: list[RefusedInput]) -> Iterator[Member]:
    try:
        yield from members
    except RefusedInput as refused:
        refusals.append(refused)


def _member(header: tarfile.TarInfo) -> Member | None:
    """Return the member of a header; None for folders and for files that belong to no sample."""
    locator, name = (header.offset_data, header.size), header.name
    if header.isdir():
        return None
    named = SAMPLE_NAME.fullmatch(name.removeprefix("./"))
    sample, suffix = (named[1], named[2].lower()) if named else (name, "")
    if not header.isreg() or header.sparse is not None:
        return Member(name, sample, suffix, locator, "expected a regular file, got a link, a device or a sparse file")
    if name.startswith("/") or ".." in name.split("/"):
        return Member(name, sample, suffix, locator, "the name leads out of the shard")
    return Member(name, sample, suffix, locator) if named else None


def _captioned(items: list[MediaItem], file: BinaryIO, members: list[Member]) -> list[MediaItem]:
    """Return the items with the caption and the extra fields of their sample; refused if these cannot be read."""
    try:
        text, extra = _caption_and_extra(file, members)
    except RefusedInput as refused:
        return [item if item.refusal else item.refused(refused.reason, refused.detail) for item in items]
    extra_json = as_extra_json(extra)
    return [item if item.refusal else replace(item, text=text, extra_json=extra_json) for item in items]


def _caption_and_extra(file: BinaryIO, members: list[Member]) -> tuple[str | None, Mapping[str, Any]]:
    """Return the caption of a sample, from a text file or else from the JSON, and the JSON's other labels.

    Raises RefusedInput.
    """
    by_suffix = {member.suffix: member for member in members if member.refusal is None}
    texts = [_read(file, by_suffix[suffix]).strip() for suffix in CAPTION_SUFFIXES if suffix in by_suffix]
    fields = _fields(_read(file, by_suffix["json"]), by_suffix["json"].name) if "json" in by_suffix else {}
    texts += [fields[name] for name in CAPTION_FIELDS if isinstance(fields.get(name), str)]
    extra = {name: value for name, value in fields.items() if name not in CAPTION_FIELDS and _is_label(value)}
    if "conversations" in fields:
        extra |= conversation_extra(fields["conversations"])
    return (texts[0] if texts else None), extra


def _read(file: BinaryIO, member: Member) -> str:
    offset, size = member.locator
    if size > MAX_CAPTION_BYTES:
        raise RefusedInput("caption_unreadable", f"{member.name}: {size} bytes, expected at most {MAX_CAPTION_BYTES}")
    with refusing_unreadable():
        file.seek(offset)
        data = file.read(size)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedInput("caption_unreadable", f"{member.name}: {error}") from error


def _fields(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedInput("caption_unreadable", f"{name}: not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_EXTRA_CHARACTERS
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
