"""Arrow IPC files, the format of every table in a dataset: written in memory, read through a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.rows import SCHEMAS, CodeRecord, to_record_batches
from shared.errors import DatasetError
from shared.storage.digests import canonical_json
from shared.storage.paths import is_local

METADATA_KEY = b"emu3"  # in the schema metadata; its value is canonical JSON


class ArrowFile:
    """An Arrow file whose record batches are validated when they are read.

    Raises DatasetError, with `advice` as the next step, if the file or a batch cannot be read.
    """

    def __init__(self, path: Path, advice: str = "run `emu3 verify`"):
        self.path = path
        self._advice = advice
        try:
            self._content = read_buffer(path)
            self._reader = pa.ipc.open_file(self._content)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: cannot be read: {error}; {advice}") from error

    def __len__(self) -> int:
        """Return the number of record batches."""
        return int(self._reader.num_record_batches)

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON in the schema metadata. Raises KeyError or ValueError if there is none."""
        return dict(json.loads((self._reader.schema.metadata or {})[METADATA_KEY]))

    def compute_sha256(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def batch(self, index: int) -> pa.RecordBatch:
        try:
            batch = self._reader.get_batch(index)
            batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{self.path}: batch {index} cannot be read: {error}; {self._advice}") from error
        return batch

    def batches(self) -> Iterator[pa.RecordBatch]:
        return (self.batch(index) for index in range(len(self)))


def read_buffer(path: Path) -> pa.Buffer:
    """Return a file as one buffer: memory-mapped if it is local, otherwise read whole."""
    if is_local(path) and path.stat().st_size:
        return pa.memory_map(str(path)).read_buffer()
    return pa.py_buffer(path.read_bytes())


def row_schema(row_format: str, metadata: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of a row format with `metadata` as its schema metadata."""
    return SCHEMAS[row_format].with_metadata({METADATA_KEY: canonical_json(metadata).encode()})


def dump_rows(records: Sequence[CodeRecord], row_format: str, metadata: Mapping[str, Any]) -> pa.Buffer:
    """Return rows as an Arrow file; equal rows give equal bytes."""
    return dump_batches(to_record_batches(records), row_schema(row_format, metadata))


def dump_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
