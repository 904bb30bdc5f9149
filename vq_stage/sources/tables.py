"""Tables with a column of images or videos: Parquet, and Arrow as Hugging Face `datasets` saves it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from shared.dataset.conversations import conversation_extra
from shared.errors import RefusedInput, UsageError
from vq_stage.sources.media_source import Locator, MediaItem, MediaSource, as_extra_json
from vq_stage.sources.media_types import stem_of
from vq_stage.sources.table_files import BatchCache, open_table

# Names of columns by preference: the first one with a fitting type is read. A new name needs one entry here.
MEDIA_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes", "video", "mp4")
VIDEO_COLUMNS = ("video", "mp4")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "sentence")
KEY_COLUMNS = ("key", "__key__", "id", "image_id", "name", "file_name")
CONVERSATIONS = "conversations"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that are read; `media` has bytes, or a struct of `bytes` and `path`."""

    media: str
    key: str | None
    caption: str | None
    conversations: str | None

    @classmethod
    def from_schema(cls, schema: pa.Schema, where: str) -> Columns:
        """Choose the columns by name and type. Raises UsageError if there is no column of images or videos."""
        media = _first(schema, MEDIA_COLUMNS, _holds_media)
        if media is None:
            found = ", ".join(f"{column.name} {column.type}" for column in schema)[:300]
            expected = f"expected bytes, or a struct of `bytes` and `path`, in one of {', '.join(MEDIA_COLUMNS)}"
            has_urls = any(column.name.lower() in ("url", "image_url") for column in schema)
            advice = "; it has only URLs: download the images first, for example with img2dataset" if has_urls else ""
            raise UsageError(f"{where}: no column of images or videos; {expected}, found {found}{advice}")
        return cls(
            media,
            _first(schema, KEY_COLUMNS, lambda type: _is_text(type) or pa.types.is_integer(type)),
            _first(
                schema, CAPTION_COLUMNS, lambda type: _is_text(type) or (_is_list(type) and _is_text(type.value_type))
            ),
            _first(schema, (CONVERSATIONS,), _is_list),
        )

    @property
    def listed(self) -> list[str]:
        """The columns that listing reads: all but the media."""
        return [name for name in (self.key, self.caption, self.conversations) if name is not None]

    @property
    def suffix(self) -> str:
        """The suffix of a video's URI, which makes the kind visible."""
        return ".mp4" if self.media in VIDEO_COLUMNS else ""


@dataclass(frozen=True)
class TableSource(MediaSource):
    """Rows of tables in their order; `tables` maps paths relative to `root` to files.

    The URI of an item is `table.parquet#row`.
    """

    tables: Mapping[str, Path] = field(repr=False)
    _cache: BatchCache = field(default_factory=BatchCache, init=False, repr=False, compare=False)

    def _items(self, is_planned: Callable[[MediaItem], bool]) -> Iterator[MediaItem]:
        for name, path in self.tables.items():
            try:
                yield from _table_items(name, path)
            except RefusedInput as refused:
                item = MediaItem(f"{stem_of(name)}-damaged", name)
                yield item.refused(refused.reason, f"from here on: {refused.detail}")

    def _empty_message(self) -> str:
        return f"{self.root}: no images or videos found; {len(self.tables)} tables have no rows"

    def open(self, uri: str, locator: Locator | None = None) -> BinaryIO:
        """Open a row's image; its row group or batch stays cached for the rows beside it. Raises RefusedInput."""
        if locator is None:
            raise RefusedInput("missing", "it was not planned as a row of a table")
        path = self._path(uri.rpartition("#")[0])
        number, row = locator
        column = self._cache.get((str(path), number), lambda: _media_column(path, number))
        if not 0 <= row < len(column):
            raise RefusedInput("missing", f"row {row} of {len(column)}: the table has changed since planning")
        return io.BytesIO(_content(column[row].as_py()))


def _table_items(name: str, path: Path) -> Iterator[MediaItem]:
    """Yield an item for every row. Raises RefusedInput where the table is damaged."""
    with open_table(path) as table:
        columns = Columns.from_schema(table.schema, str(path))
        for index, (locator, fields) in enumerate(table.rows(columns.listed)):
            uri = f"{name}#{index}{columns.suffix}"
            yield _row_item(columns, fields, f"{stem_of(name)}-{index:08d}", uri, locator)


def _row_item(columns: Columns, fields: dict[str, Any], name: str, uri: str, locator: Locator) -> MediaItem:
    key, text = (fields.get(column) if column else None for column in (columns.key, columns.caption))
    if isinstance(text, list):
        text = text[0] if text else None
    kind = "video" if columns.suffix else "image"
    item = MediaItem(name if key is None or key == "" else str(key), uri, text, kind, locator)
    if columns.conversations is None or fields[columns.conversations] is None:
        return item
    try:
        extra = conversation_extra(fields[columns.conversations])
    except RefusedInput as refused:
        return item.refused(refused.reason, refused.detail)
    return replace(item, extra_json=as_extra_json(extra))


def _media_column(path: Path, number: int) -> pa.Array | pa.ChunkedArray:
    """Read the media of a row group or batch. Raises RefusedInput: one bad table does not stop a running job."""
    try:
        with open_table(path) as table:
            return table.column(number, Columns.from_schema(table.schema, str(path)).media)
    except UsageError as error:
        raise RefusedInput("unreadable", str(error)) from error


def _first(schema: pa.Schema, names: tuple[str, ...], fits: Callable[[pa.DataType], bool]) -> str | None:
    """Return the first of these names that is the name of a column whose type `fits`."""
    return next((name for name in names if schema.get_field_index(name) >= 0 and fits(schema.field(name).type)), None)


def _holds_media(type: pa.DataType) -> bool:
    if pa.types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _holds_media(type.field("bytes").type)
    return any(test(type) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _is_text(type: pa.DataType) -> bool:
    type = type.value_type if pa.types.is_dictionary(type) else type
    return any(test(type) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type))


def _content(value: Any) -> bytes:
    """Return the bytes of a row's image. Raises RefusedInput: `missing` or `empty`."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        advice = f"only a path, {path}; save the dataset with embedded images" if path else "null"
        raise RefusedInput("missing", f"the row contains no image: {advice}")
    if not data:
        raise RefusedInput("empty", "the row's image has no bytes")
    return bytes(data)
