"""Parquet and Arrow files, read one row group or record batch at a time, and a cache of what was read last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import is_local
from vq_stage.sources.files import open_file

LISTED_ROWS = 1024  # rows of captions of a Parquet file in memory at a time
CACHE_BYTES = 256 << 20
MIN_CACHED = 2  # reading threads are at the end of one batch and at the start of the next at the same time
_FILE_MAGIC = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

_BatchKey = tuple[str, int]  # path of the table, number of the row group or batch
Row = tuple[tuple[int, int], dict[str, Any]]  # locator, fields


class Table(Protocol):
    """An open table. A locator is (number, row), where the number identifies a row group or a batch."""

    @property
    def schema(self) -> pa.Schema: ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows with these columns."""
        ...

    def column(self, number: int, name: str) -> pa.Array | pa.ChunkedArray:
        """Return one column of a row group or batch."""
        ...


class ParquetTable:
    """A Parquet file; numbers are those of row groups."""

    def __init__(self, file: pa.NativeFile):
        self._file = pq.ParquetFile(file)
        self.schema = self._file.schema_arrow

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number in range(self._file.num_row_groups):
            for row, fields in enumerate(self._group(number, columns)):
                yield (number, row), fields

    def column(self, number: int, name: str) -> pa.ChunkedArray:
        return self._file.read_row_group(number, columns=[name], use_threads=False).column(name)

    def _group(self, number: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        if not columns:
            yield from ({} for _ in range(self._file.metadata.row_group(number).num_rows))
            return
        for batch in self._file.iter_batches(LISTED_ROWS, [number], list(columns), use_threads=False):
            yield from batch.to_pylist()


class ArrowFileTable:
    """An Arrow IPC file; numbers are those of record batches."""

    def __init__(self, file: pa.NativeFile):
        self._reader = pa.ipc.open_file(file)
        self.schema = self._reader.schema

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        for number in range(self._reader.num_record_batches):
            yield from _batch_rows(number, self._reader.get_batch(number), columns)

    def column(self, number: int, name: str) -> pa.Array:
        return _checked(self._reader.get_batch(number), [name]).column(0)


class ArrowStreamTable:
    """An Arrow IPC stream; it has no index, so numbers are offsets of record batches in bytes."""

    def __init__(self, file: pa.NativeFile, where: str):
        self._file = file
        self.schema = pa.ipc.read_schema(pa.ipc.read_message(file))
        self._start = file.tell()
        if encoded := [column.name for column in self.schema if pa.types.is_dictionary(column.type)]:
            raise UsageError(f"{where}: column {encoded[0]} is dictionary-encoded; save the table as Parquet")

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        self._file.seek(self._start)
        while True:
            offset = self._file.tell()
            try:
                message = pa.ipc.read_message(self._file)
            except EOFError:
                break
            yield from _batch_rows(offset, pa.ipc.read_record_batch(message, self.schema), columns)
        self._file.seek(offset)
        if self._file.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
            raise RefusedInput("truncated", f"truncated at byte {offset}: the end-of-stream mark is missing")

    def column(self, number: int, name: str) -> pa.Array:
        self._file.seek(number)
        return _checked(pa.ipc.read_record_batch(pa.ipc.read_message(self._file), self.schema), [name]).column(0)


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a table by its suffix and first bytes; local files are memory-mapped. Raises RefusedInput."""
    with refusing_damaged(), open_file(path) as opened:
        file = pa.memory_map(str(path)) if is_local(path) else pa.PythonFile(opened, "r")
        with file:
            if path.suffix.lower() == ".parquet":
                yield ParquetTable(file)
            elif file.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
                yield ArrowFileTable(file)
            else:
                file.seek(0)
                yield ArrowStreamTable(file, str(path))


@contextmanager
def refusing_damaged() -> Iterator[None]:
    """Turn the exceptions of a damaged table into a refusal, so that it does not stop the job."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, IndexError, UnicodeDecodeError) as error:
        raise RefusedInput("unreadable", f"the table is damaged: {error!s:.200}") from error


def _batch_rows(number: int, batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[Row]:
    listed = _checked(batch, columns).to_pylist() if columns else ({} for _ in range(batch.num_rows))
    for row, fields in enumerate(listed):
        yield (number, row), fields


def _checked(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Select columns and validate them: Arrow trusts offsets, so a damaged file would be read out of bounds."""
    selected = batch.select(list(columns))
    selected.validate(full=True)
    return selected


class BatchCache:
    """The media columns used last, up to `max_bytes`, by path and number of their batch.

    Thread-safe; each column is loaded by one thread only.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._columns: OrderedDict[_BatchKey, Future[Any]] = OrderedDict()

    def get(self, key: _BatchKey, load: Callable[[], Any]) -> Any:
        """Return a column, loaded by `load` if it is not cached. An exception of `load` is raised and not cached."""
        with self._lock:
            is_new = key not in self._columns
            future = self._columns.setdefault(key, Future())
            self._columns.move_to_end(key)
        if is_new:
            self._load(key, future, load)
        return future.result()

    def _load(self, key: _BatchKey, future: Future[Any], load: Callable[[], Any]) -> None:
        try:
            future.set_result(load())
        except BaseException as error:
            with self._lock:
                self._columns.pop(key, None)
            future.set_exception(error)
        with self._lock:
            while len(self._columns) > MIN_CACHED and self._cached_bytes() > self._max_bytes:
                self._columns.popitem(last=False)

    def _cached_bytes(self) -> int:
        done = (future for future in self._columns.values() if future.done() and not future.exception())
        return sum(future.result().nbytes for future in done)
