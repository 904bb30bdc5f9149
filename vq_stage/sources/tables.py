"""Tables with a column of images or videos: Parquet, and Arrow as Hugging Face `datasets` saves it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from shared.errors import RefusedInput, UsageError
from shared.storage.temporary_database import naming_the_disk
from vq_stage.sources.annotations import Annotation
from vq_stage.sources.field_names import (
    CAPTION_NAMES,
    CONVERSATION_NAMES,
    IMAGE_NAMES,
    VIDEO_NAMES,
    fields_named,
    is_present,
)
from vq_stage.sources.item_groups import ItemGroups
from vq_stage.sources.media_source import Locator, MediaItem, MediaSource
from vq_stage.sources.media_types import kind_of, stem_of
from vq_stage.sources.table_files import BatchCache, open_table

# Names of columns by preference, in upper or lower case: the first one with a fitting type is read.
BYTES_NAMES = ("jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "image_data")
CLIP_NAMES = ("mp4", "video_bytes")
PATH_NAMES = ("image", "image_path", "image_file", "img_path", "video", "video_path", "video_file", "file_name", "path")
KEY_NAMES = ("key", "__key__", "id", "image_id", "name", "file_name")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that are read; `media` has bytes, or a struct of `bytes` and `path`, or paths of files.

    `annotations` has captions, conversations, questions and answers.
    """

    media: str
    is_video: bool
    has_paths: bool
    key: str | None
    annotations: tuple[str, ...]

    @classmethod
    def from_schema(cls, schema: pa.Schema, where: str, key: str | None = None) -> Columns:
        """Choose the columns by name and type. Raises UsageError if those with media, or `key`, are missing."""
        images = _fitting(schema, ("image", *BYTES_NAMES, *IMAGE_NAMES), _holds_media)
        videos = _fitting(schema, (*VIDEO_NAMES, *CLIP_NAMES), _holds_media)
        paths = [] if images or videos else _fitting(schema, PATH_NAMES, _is_text)
        if not images and not videos and not paths:
            raise UsageError(f"{where}: no column of images or videos; {_expected_media(schema)}")
        if key is not None and schema.get_field_index(key) < 0:
            raise UsageError(f"{where}: --key {key}: no such column; found {', '.join(schema.names)[:300]}")
        keys = [key] if key is not None else _fitting(schema, KEY_NAMES, _is_key)
        annotations = [
            *_fitting(schema, CAPTION_NAMES, _holds_text),
            *_fitting(schema, CONVERSATION_NAMES, _is_list),
            *_fitting(schema, ("question", "answer"), _is_text),
        ]
        media = (images or videos or paths)[0]
        return cls(media, bool(videos) and not images, bool(paths), keys[0] if keys else None, tuple(annotations))

    @property
    def listed(self) -> list[str]:
        """The columns that listing reads: all but the media, unless these are paths."""
        others = [self.key] if self.key is not None else []
        return list(dict.fromkeys([*others, *self.annotations, *([self.media] if self.has_paths else [])]))

    @property
    def suffix(self) -> str:
        """The suffix of a video's URI, which makes the kind visible."""
        return ".mp4" if self.is_video else ""


@dataclass(frozen=True)
class TableSource(MediaSource):
    """Rows of tables in their order; `tables` maps paths relative to `root` to files.

    The URI of an item is `table.parquet#row`. Rows with the same key and the same image are one item.
    """

    tables: Mapping[str, Path] = field(repr=False)
    key_column: str | None = None
    _cache: BatchCache = field(default_factory=BatchCache, init=False, repr=False, compare=False)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        with naming_the_disk(), closing(ItemGroups()) as groups:
            groups.add(self._keyed_rows(), is_planned)
            groups.split_by_content(self._content_digest, is_planned)
            yield from groups.items()

    def _keyed_rows(self) -> Iterator[tuple[str, MediaItem]]:
        for name, path in self.tables.items():
            try:
                for item in self._rows(name, path):
                    yield item.key if item.locator else f"file {item.uri}", item
            except RefusedInput as refused:
                item = MediaItem(f"{stem_of(name)}-damaged", name)
                yield "", item.refused(refused.reason, f"from here on: {refused.detail}")

    def _rows(self, name: str, path: Path) -> Iterator[MediaItem]:
        """Yield an item for every row. Raises RefusedInput where the table is damaged."""
        with open_table(path) as table:
            columns = Columns.from_schema(table.schema, str(path), self.key_column)
            for index, (locator, fields) in enumerate(table.rows(columns.listed)):
                names = f"{stem_of(name)}-{index:08d}", f"{name}-{index:08d}"
                uri = f"{name}#{index}{columns.suffix}"
                kind = "video" if columns.is_video else "image"
                item = MediaItem(names[0], uri, kind=kind, locator=locator, other_keys=names)
                if columns.has_paths:
                    item = _file_item(item, name, fields[columns.media])
                yield _row_item(item, fields.get(columns.key) if columns.key else None, fields)

    def _content_digest(self, item: MediaItem) -> bytes:
        """Return the digest of a row's image; the URI if the row has only a path, or an image that cannot be read."""
        if item.locator is None:
            return item.uri.encode()
        try:
            return self.sha256(item.uri, item.locator)
        except RefusedInput:
            return item.uri.encode()

    def _empty_message(self) -> str:
        return f"{self.root}: no images or videos found; {len(self.tables)} tables have no rows"

    def open(self, uri: str, locator: Locator | None = None) -> BinaryIO:
        """Open a row's image; its row group or batch stays cached for the rows beside it. Raises RefusedInput."""
        if locator is None:
            return super().open(uri)
        path = self._path(uri.rpartition("#")[0])
        number, row = locator
        column = self._cache.get((str(path), number), lambda: _media_column(path, number))
        if not 0 <= row < len(column):
            raise RefusedInput("missing", f"row {row} of {len(column)}: the table has changed since planning")
        return io.BytesIO(_content(column[row].as_py()))


def _file_item(item: MediaItem, table: str, path: object) -> MediaItem:
    """Return the item of a row that names a file, relative to the folder of its table."""
    if not isinstance(path, str) or not path:
        return item.refused("missing", "the row contains neither an image nor a path")
    uri = path if "://" in path else os.path.normpath(os.path.join(os.path.dirname(table), path))
    key = stem_of(uri)
    return replace(item, key=key, uri=uri, kind=kind_of(uri), locator=None, other_keys=(*item.other_keys, uri))


def _row_item(item: MediaItem, key: object, fields: Mapping[str, Any]) -> MediaItem:
    """Return the item with its key, if it has one, and with what the row says about it."""
    if item.refusal:
        return item
    if is_present(key):
        item = replace(item, key=str(int(key)) if isinstance(key, float) and key.is_integer() else str(key))
    try:
        return Annotation.from_fields(fields).add_to(item)
    except RefusedInput as refused:
        return item.refused(refused.reason, refused.detail)


def _media_column(path: Path, number: int) -> pa.Array | pa.ChunkedArray:
    """Read the media of a row group or batch. Raises RefusedInput: one bad table does not stop a running job."""
    try:
        with open_table(path) as table:
            return table.column(number, Columns.from_schema(table.schema, str(path)).media)
    except UsageError as error:
        raise RefusedInput("unreadable", str(error)) from error


def _expected_media(schema: pa.Schema) -> str:
    found = ", ".join(f"{column.name} {column.type}" for column in schema)[:300]
    names = ", ".join((*IMAGE_NAMES, *BYTES_NAMES, *VIDEO_NAMES, *CLIP_NAMES))
    has_urls = any(column.name.lower() in ("url", "image_url") for column in schema)
    advice = "; it has only URLs: download the images first, for example with img2dataset" if has_urls else ""
    return f"expected bytes, a struct of `bytes` and `path`, or paths, in one of {names}; found {found}{advice}"


def _fitting(schema: pa.Schema, names: Sequence[str], fits: Callable[[pa.DataType], bool]) -> list[str]:
    """Return the columns with one of these names whose type `fits`, by the preference of the names."""
    named = fields_named(schema.names, names)
    return [name for name in named if schema.names.count(name) == 1 and fits(schema.field(name).type)]


def _holds_media(type: pa.DataType) -> bool:
    """Return whether a column has bytes, a struct with `bytes`, or lists of those."""
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _holds_media(type.field("bytes").type)
    if _is_list(type):
        return not _is_list(type.value_type) and _holds_media(type.value_type)
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(type) for test in is_bytes)


def _holds_text(type: pa.DataType) -> bool:
    """Return whether a column has strings, or lists or structs of them."""
    if pa.types.is_struct(type):
        return any(_holds_text(inner.type) for inner in type)
    return _holds_text(type.value_type) if _is_list(type) else _is_text(type)


def _is_key(type: pa.DataType) -> bool:
    return _is_text(type) or bool(pa.types.is_integer(type))


def _is_text(type: pa.DataType) -> bool:
    type = type.value_type if pa.types.is_dictionary(type) else type
    return any(test(type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_list(type: pa.DataType) -> bool:
    return any(test(type) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _content(value: Any) -> bytes:
    """Return the bytes of a row's image. Raises RefusedInput: `missing` or `empty`."""
    if isinstance(value, list):
        if len(value) > 1:
            raise RefusedInput("bad_entry", f"expected one image, got a list of {len(value)}; write one row for each")
        value = value[0] if value else None
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        advice = f"only a path, {path}; save the dataset with embedded images" if path else "null"
        raise RefusedInput("missing", f"the row contains no image: {advice}")
    if not data:
        raise RefusedInput("empty", "the row's image has no bytes")
    return bytes(data)
