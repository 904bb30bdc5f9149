"""Captions from the metadata files of a folder, held in a temporary database so that any number fits."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import RefusedInput, UsageError
from shared.storage.small_files import parse_json
from vq_stage.sources.files import open_file

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.csv")


class Captions:
    """Captions by path, in a temporary SQLite file removed on close; a later caption replaces an earlier one."""

    def __init__(self) -> None:
        self._is_empty = True
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE captions (uri BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")

    def close(self) -> None:
        self._database.close()

    def add(self, captions: Iterable[tuple[str, str]]) -> None:
        """Add pairs (path, text)."""
        self._is_empty = False
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR REPLACE INTO captions VALUES (?, ?)", ((_blob(uri), _blob(text)) for uri, text in captions)
        )
        self._database.execute("COMMIT")

    def get(self, uri: str) -> str | None:
        """Return the caption of a path, None if it has none."""
        if self._is_empty:
            return None
        row = self._database.execute("SELECT text FROM captions WHERE uri = ?", (_blob(uri),)).fetchone()
        return bytes(row[0]).decode("utf-8", "surrogatepass") if row else None


def _blob(text: str) -> bytes:
    """Encode also names that are not valid Unicode, which SQLite rejects; the source refuses those items later."""
    return text.encode("utf-8", "surrogatepass")


def read_captions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file_name, text) of a metadata file, row by row. Raises UsageError."""
    rows = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}[path.suffix](path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or "text" not in row:
            raise UsageError(f"{path}: row {number}: expected `file_name` and `text`, got {row!r:.100}")
        if row["text"] is not None:
            yield row["file_name"], str(row["text"])


def text_lines(file: BinaryIO, where: str, newline: str = "\n") -> Iterator[str]:
    """Yield lines of UTF-8 text while they are read; by default only \\n ends a line. Closes the file.

    Raises UsageError, naming `where`, for bytes that are not UTF-8.
    """
    try:
        with io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: expected UTF-8: {error}; save it as UTF-8") from error


def json_lines(file: BinaryIO, where: str) -> Iterator[object]:
    """Yield the values of a .jsonl file, skipping empty lines. Raises UsageError with the line number."""
    for number, line in enumerate(text_lines(file, where), 1):
        if line.strip():
            yield parse_json(line, f"{where}: line {number}")


def open_list(path: Path) -> BinaryIO:
    """Open a file without which nothing can be listed; it may be empty. Raises UsageError."""
    try:
        return open_file(path)
    except RefusedInput as refused:
        if refused.reason == "empty":
            return io.BytesIO()
        raise UsageError(f"{path}: cannot be read: {refused}") from refused


def _json_rows(path: Path) -> Iterator[object]:
    with open_list(path) as file:
        yield from json_lines(file, str(path))


def _csv_rows(path: Path) -> Iterator[object]:
    with open_list(path) as file:
        try:
            yield from csv.DictReader(text_lines(file, str(path), newline=""))
        except csv.Error as error:
            raise UsageError(f"{path}: not CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[object]:
    with open_list(path) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(columns=["file_name", "text"]):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{path}: not Parquet: {error}") from error
