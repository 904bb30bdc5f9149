"""Captions from the metadata files of a folder, held in a temporary database so that any number fits."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import is_local
from shared.storage.temporary_database import as_blob, temporary_database
from vq_stage.sources.annotations import Annotation, merged
from vq_stage.sources.field_names import (
    ANNOTATION_NAMES,
    FILE_NAMES,
    IMAGE_NAMES,
    VIDEO_NAMES,
    fields_named,
    first_value,
)
from vq_stage.sources.files import is_folder
from vq_stage.sources.list_files import listed_values, open_list
from vq_stage.sources.media_source import MediaItem

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.csv")
METADATA_NAMES = (*FILE_NAMES, *IMAGE_NAMES, *VIDEO_NAMES)  # of the field with the path
MAX_CSV_FIELD_CHARACTERS = 16 << 20

_CREATE = """CREATE TABLE captions (
    path BLOB, rank INTEGER, number INTEGER, row TEXT, PRIMARY KEY (path, rank, number)) WITHOUT ROWID"""


class Captions:
    """The annotations in the metadata files of a folder, in a temporary SQLite file that is removed on close."""

    def __init__(self) -> None:
        self._rows = 0
        self._is_folder = cache(is_folder)
        self._database = temporary_database()
        self._database.execute(_CREATE)
        self._database.execute("CREATE TABLE used (number INTEGER PRIMARY KEY)")

    def close(self) -> None:
        self._database.close()

    def read(self, path: Path, folder: str, root: Path) -> None:
        """Read a metadata file in `folder`, which is relative to `root` and ends in `/`. Raises UsageError."""
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO captions VALUES (?, ?, ?, ?)", self._paths_and_rows(path, folder, root))
        self._database.execute("COMMIT")

    def _paths_and_rows(self, path: Path, folder: str, root: Path) -> Iterator[tuple[bytes, int, int, str]]:
        for name, fields, where in read_metadata(path):
            try:
                annotated = Annotation.from_fields(fields).add_to(MediaItem("", name))
            except RefusedInput as refused:
                raise UsageError(f"{where}: {refused.detail}") from refused
            if annotated.text is None and annotated.extra_json is None:
                continue
            self._rows += 1
            row = json.dumps([name, annotated.text, annotated.extra_json])
            candidates = chain(possible_paths(name, folder, root), self._paths_above(name, folder, root))
            for rank, candidate in enumerate(dict.fromkeys(candidates)):
                yield as_blob(candidate), rank, self._rows, row

    def _paths_above(self, name: str, folder: str, root: Path) -> Iterator[str]:
        """Yield the path that a name means in the next folder above that has the folder with which the name begins."""
        first, _, rest = os.path.normpath(name.replace("\\", "/")).partition("/")
        above = folder.rstrip("/")
        if first and rest and not self._is_folder(root / folder / first):
            while above:
                above = os.path.dirname(above)
                if self._is_folder(root / above / first):
                    yield _comparable(os.path.join(above, first, rest))
                    return

    def add_to(self, item: MediaItem) -> MediaItem | None:
        """Return the item with all captions and conversations of its path; None if it has none."""
        if not self._rows:
            return None
        query = "SELECT rank, number, row FROM captions WHERE path = ? ORDER BY rank, number"
        found = self._database.execute(query, (as_blob(_comparable(item.uri)),)).fetchall()
        best = [(number, json.loads(row)) for rank, number, row in found if rank == found[0][0]]
        if not best:
            return None
        self._database.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((number,) for number, _ in best))
        return merged([replace(item, text=text, extra_json=extra) for _, (_, text, extra) in best])

    def unused(self) -> Iterator[str]:
        """Yield the file names of rows that no item had."""
        query = "SELECT number, row FROM captions WHERE rank = 0 AND number NOT IN used ORDER BY number"
        for _, row in self._database.execute(query):
            yield json.loads(row)[0]


def possible_paths(name: str, folder: str, root: Path) -> Iterator[str]:
    """Yield the paths, relative to `root`, that a file name in a metadata file in `folder` may mean, the best first.

    Names are relative to the folder of the metadata file, or to a folder above it, or absolute.
    """
    path = _comparable(os.path.normpath(name.replace("\\", "/")))
    yield _comparable(os.path.normpath(os.path.join(folder, path)))
    above = (
        os.path.join(_comparable(os.path.abspath(root) if is_local(root) else root.name), folder).rstrip("/").split("/")
    )
    parts = path.split("/")
    for length in range(min(len(parts) - 1, len(above)), 0, -1):
        if parts[:length] == above[-length:]:
            yield _comparable(os.path.join(folder, *parts[length:]))


def _comparable(path: str) -> str:
    """Return one spelling of a path: file systems and editors write accented letters in different Unicode forms."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def read_metadata(path: Path) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield (file name, fields, where) of a metadata file, row by row. Raises UsageError."""
    rows = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}[path.suffix.lower()](path)
    for where, row in rows:
        name = first_value(row, METADATA_NAMES) if isinstance(row, dict) else None
        if not isinstance(row, dict) or not isinstance(name, str):
            raise UsageError(f"{path}: {where}: expected `file_name` and a caption such as `text`, got {row!r:.100}")
        yield name, row, f"{path}: {where}"


def _json_rows(path: Path) -> Iterator[tuple[str, object]]:
    for value in listed_values(path):
        if value.error:
            raise UsageError(f"{path}: {value.where}: {value.error}")
        yield value.where, value.value


def _csv_rows(path: Path) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(MAX_CSV_FIELD_CHARACTERS)
    try:
        with open_list(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            for row in rows:
                yield f"line {rows.line_num}", {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise UsageError(f"{path}: line {rows.line_num}: not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8: {error}; save it as UTF-8") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    with open_list(path) as file:
        try:
            table = pq.ParquetFile(file)
            names = fields_named(table.schema_arrow.names, (*METADATA_NAMES, *ANNOTATION_NAMES))
            rows = (row for batch in table.iter_batches(columns=list(names)) for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows, 1))
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: not Parquet: {error}") from error
