"""Arrow IPC files, the format of every table in a dataset: written in memory, read through a memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.columns import ALL_COLUMNS, columns_of
from shared.dataset.rows import CodeRecord, check_code_dtype, to_record_batches
from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError
from shared.storage.digests import canonical_json
from shared.storage.paths import is_local
from shared.storage.small_files import parse_json_object

METADATA_KEY = b"emu3"  # in the schema metadata; its value is canonical JSON


class ArrowFile:
    """An Arrow file whose record batches are validated when they are read.

    `is_expected` accepts the columns of this kind of file. Raises DatasetError, with `advice` as the next step, if the
    file or a batch cannot be read or has other columns.
    """

    def __init__(self, path: Path, is_expected: Callable[[pa.Schema], bool], advice: str = "run `emu3 verify`"):
        self.path = path
        self._advice = advice
        try:
            self._content = read_buffer(path)
            self._reader = pa.ipc.open_file(self._content)
            self._is_valid = bytearray(self._reader.num_record_batches)
            has_expected_columns = is_expected(self._reader.schema)
        except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: a name that is not UTF-8
            raise DatasetError(f"{path}: cannot be read: {error}; {advice}") from error
        if not has_expected_columns:
            raise DatasetError(f"{path}: the columns are not those of this kind of file; {advice}")

    def __len__(self) -> int:
        """Return the number of record batches."""
        return int(self._reader.num_record_batches)

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON in the schema metadata. Raises DatasetError if there is none."""
        content = (self._reader.schema.metadata or {}).get(METADATA_KEY, b"")
        return parse_json_object(content, f"{self.path}: metadata", DatasetError)

    def compute_sha256(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def batch(self, index: int) -> pa.RecordBatch:
        """Return a record batch, which is validated when it is read for the first time."""
        try:
            batch = self._reader.get_batch(index)
            if self._is_valid[index]:
                return batch
            batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
        except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
            raise DatasetError(f"{self.path}: batch {index} cannot be read: {error}; {self._advice}") from error
        if _has_forbidden_null(batch):
            raise DatasetError(f"{self.path}: batch {index}: null in a column that has none; {self._advice}")
        self._is_valid[index] = True
        return batch

    def batches(self) -> Iterator[pa.RecordBatch]:
        return (self.batch(index) for index in range(len(self)))


def open_rows(path: Path, advice: str = "run `emu3 verify`") -> ArrowFile:
    """Open a part or a shard. Raises DatasetError if it cannot be read or does not have the columns of rows."""
    return ArrowFile(path, lambda schema: any(map(schema.equals, ALL_COLUMNS)), advice)


def _has_forbidden_null(batch: pa.RecordBatch) -> bool:
    """Whether a column, or the items of a list, contain null against the schema, which `validate` does not check."""
    columns = list(zip(batch.schema, batch.columns))
    lists = [(field.type, column) for field, column in columns if pa.types.is_large_list(field.type)]
    columns += [(kind.value_field, column.values) for kind, column in lists]
    structs = [(field.type, column) for field, column in columns if pa.types.is_struct(field.type)]
    columns += [pair for kind, column in structs for pair in zip(kind, column.flatten())]
    return any(column.null_count and not field.nullable for field, column in columns)


def read_buffer(path: Path) -> pa.Buffer:
    """Return a file as one buffer: memory-mapped if it is local, otherwise read whole."""
    if is_local(path) and path.stat().st_size:
        return pa.memory_map(str(path)).read_buffer()
    return pa.py_buffer(path.read_bytes())


def row_schema(settings: DatasetSettings, metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the schema of a dataset's rows; its metadata are the dataset's fingerprints unless others are given."""
    metadata = settings.fingerprints() if metadata is None else metadata
    columns = columns_of(settings.format, settings.codec.code_dtype)
    return columns.with_metadata({METADATA_KEY: canonical_json(metadata).encode()})


def dump_rows(
    records: Sequence[CodeRecord], settings: DatasetSettings, metadata: Mapping[str, Any] | None = None
) -> pa.Buffer:
    """Return rows of a dataset as an Arrow file; equal rows give equal bytes.

    Raises ShapeError for codes of another type than those of the dataset's codec.
    """
    check_code_dtype(records, settings.codec)
    return dump_batches(to_record_batches(records), row_schema(settings, metadata))


def dump_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
