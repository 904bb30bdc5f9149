"""WebDataset shards: tars in which the members with the same name before the suffix form a sample."""

from __future__ import annotations

import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import RefusedInput, UsageError
from shared.storage.small_files import parse_json
from vq_stage.sources.annotations import Annotation
from vq_stage.sources.field_names import CAPTION_FILE_SUFFIXES, CAPTION_NAMES, CONVERSATION_NAMES, fields_named
from vq_stage.sources.files import open_file, open_part, refusing_unreadable
from vq_stage.sources.listing_report import ListingReport
from vq_stage.sources.media_source import Locator, MediaItem, MediaSource
from vq_stage.sources.media_types import is_media, is_system_name, kind_of, stem_of, suffix_of

# The name up to the first dot, then the field. Source: WebDataset, base_plus_ext.
SAMPLE_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
SHARD_END = re.compile(r"\.tar/", re.IGNORECASE)
TEXT_SUFFIXES = (*CAPTION_FILE_SUFFIXES, ".json")  # by preference
MAX_CAPTION_BYTES = 1 << 20
MAX_EXTRA_CHARACTERS = 1000  # longer strings are not labels, and are not kept
HEADERS_BLOCK_BYTES = 8 << 20  # each member follows its header, so listing reads most of a remote shard
DAMAGED = (tarfile.TarError, ValueError, OverflowError, EOFError, KeyError, IndexError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a shard; `sample` is its name before the first dot."""

    name: str
    sample: str
    locator: Locator
    refusal: str | None = None


@dataclass(slots=True)
class Sample:
    """The members of a sample: its images and videos, and the files with their captions and labels."""

    name: str
    media: list[Member] = field(default_factory=list)
    texts: list[Member] = field(default_factory=list)

    def members_like(self, member: Member) -> list[Member]:
        """Return the list for a member; a refused one counts as an image."""
        return self.media if member.refusal or is_media(member.name) else self.texts

    def texts_of(self, medium: Member) -> dict[str, Member]:
        """Return by suffix the texts of the same name up to the last dot; else those that belong to no other medium."""
        stems = {stem_of(other.name) for other in self.media}
        own = [text for text in self.texts if stem_of(text.name) == stem_of(medium.name)]
        shared = [text for text in self.texts if stem_of(text.name) not in stems]
        return {suffix_of(text.name): text for text in (*shared, *own)}


@dataclass(frozen=True)
class WebDatasetSource(MediaSource):
    """Samples of tars in their order; `shards` maps paths relative to `root` to files. Nothing is extracted."""

    shards: Mapping[str, Path] = field(repr=False)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        for name, path in self.shards.items():
            yield from ShardScan(name, path, is_planned, self.report).items()

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
    """One pass over the headers of a shard, which are in memory together. Captions of planned items are not read."""

    def __init__(self, name: str, path: Path, is_planned: Callable[[MediaItem], bool], report: ListingReport):
        self.name = name
        self.path = path
        self.is_planned = is_planned
        self.report = report
        self._listed: Counter[str] = Counter()  # of each name

    def items(self) -> Iterator[MediaItem]:
        """Yield all samples; for a truncated or damaged shard, those before the damage and one refused item."""
        try:
            file = open_file(self.path, block_bytes=HEADERS_BLOCK_BYTES)
        except RefusedInput as refused:
            yield self._damaged(refused)
            return
        with file:
            refusals: list[RefusedInput] = []
            for sample in samples_of(_until_refused(self._members(file), refusals)):
                yield from self._sample_items(file, sample)
            if refusals:
                yield self._damaged(refusals[0])

    def _members(self, file: BinaryIO) -> Iterator[Member]:
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
                    if header.isdir():
                        continue
                    if is_system_name(header.name):
                        self.report.skip("hidden and system files", f"{self.name}/{header.name}")
                    elif (member := _member(header)) is not None:
                        yield member
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise RefusedInput(
                        "truncated", f"truncated or damaged at byte {tar.offset} of {size}: no end-of-archive mark"
                    )
        except DAMAGED as error:
            raise RefusedInput("truncated", f"{error!s:.200}") from error

    def _sample_items(self, file: BinaryIO, sample: Sample) -> Iterator[MediaItem]:
        if not sample.media:
            for text in sample.texts:
                self.report.unused_captions.add(f"{self.name}/{text.name}")
        whole = [member for member in sample.media if member.refusal is None]
        for member in sample.media:
            uri = f"{self.name}/{member.name}"
            if member.refusal is not None:
                yield MediaItem(member.name, uri, other_keys=(uri,)).refused("bad_name", member.refusal)
                continue
            self._listed[member.name] += 1
            key = sample.name if len(whole) == 1 else member.name.removeprefix("./")
            item = MediaItem(
                key,
                uri,
                kind=kind_of(member.name),
                locator=member.locator,
                other_keys=(sample.name, f"{stem_of(self.name)}/{key}"),
                key_repeats=True,  # another shard may use it, too
                number=self._listed[member.name],
            )
            yield item if self.is_planned(item) else _captioned(item, file, sample.texts_of(member))

    def _damaged(self, refused: RefusedInput) -> MediaItem:
        return MediaItem(f"{stem_of(self.name)}-damaged", self.name).refused(
            refused.reason, f"the shard: {refused.detail}"
        )


def samples_of(members: Iterable[Member]) -> Iterator[Sample]:
    """Join the members of each sample, wherever in the shard they are, in the order of their first members.

    A member whose name was there before begins another sample.
    """
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    for member in members:
        sample = latest.get(member.sample)
        if sample is None or any(other.name == member.name for other in sample.members_like(member)):
            sample = latest[member.sample] = Sample(member.sample)
            samples.append(sample)
        sample.members_like(member).append(member)
    yield from samples


def _until_refused(members: Iterator[Member], refusals: list[RefusedInput]) -> Iterator[Member]:
    try:
        yield from members
    except RefusedInput as refused:
        refusals.append(refused)


def _member(header: tarfile.TarInfo) -> Member | None:
    """Return the member of a header; None for a file that is neither an image or a video nor a caption."""
    locator, name = (header.offset_data, header.size), header.name
    named = SAMPLE_NAME.fullmatch(name.removeprefix("./"))
    sample = named[1] if named else name
    if not header.isreg() or header.sparse is not None:
        return Member(name, sample, locator, "expected a regular file, got a link, a device or a sparse file")
    if name.startswith("/") or ".." in name.split("/"):
        return Member(name, sample, locator, "the name leads out of the shard")
    is_used = is_media(name) or suffix_of(name) in TEXT_SUFFIXES
    return Member(name, sample, locator) if named and is_used else None


def _captioned(item: MediaItem, file: BinaryIO, texts: Mapping[str, Member]) -> MediaItem:
    """Return the item with its caption, from a text file or else from JSON, and the JSON's conversation and labels."""
    try:
        captions = [_read(file, texts[suffix]).strip() for suffix in CAPTION_FILE_SUFFIXES if suffix in texts]
        fields = _fields(_read(file, texts[".json"]), texts[".json"].name) if ".json" in texts else {}
        annotation = Annotation.from_fields(fields)
    except RefusedInput as refused:
        return item.refused(refused.reason, refused.detail)
    used = fields_named(fields, (*CAPTION_NAMES, *CONVERSATION_NAMES))
    labels = {name: value for name, value in fields.items() if name not in used and _is_label(value)}
    first = tuple(caption for caption in captions if caption)[:1]
    return replace(annotation, texts=first or annotation.texts, labels=labels).add_to(item)


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
        value = parse_json(text, name)
    except UsageError as error:
        raise RefusedInput("caption_unreadable", str(error)) from error
    return value if isinstance(value, dict) else {}


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_EXTRA_CHARACTERS
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
