"""Rows as Parquet: the columns of an Arrow part with its schema metadata, in row groups of at most 256 rows.

Equal rows give equal bytes with the same version of pyarrow, which writes its version into the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from shared.dataset.arrow_file import row_schema
from shared.dataset.columns import ALL_COLUMNS
from shared.dataset.rows import (
    MAX_ROWS_PER_BATCH,
    CodeRecord,
    damaged_keys,
    from_record_batch,
    to_record_batches,
)
from shared.dataset.settings import ROW_FORMATS, DatasetSettings
from shared.errors import DatasetError

_LISTS = ("codes", "tokens")
# Bytes per code for random 15-bit codes: 2.1, where plain has 2.5, dictionary 2.2, and BYTE_STREAM_SPLIT 1.9, but few
# readers support the last.
_ENCODINGS = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in _LISTS}


class Parquet:
    """Parquet files of rows. Implements `ShardFormat`."""

    suffix = ".parquet"

    def dump(self, records: Sequence[CodeRecord], settings: DatasetSettings) -> bytes:
        """Return one file of these rows, in their order."""
        sink, schema = pa.BufferOutputStream(), row_schema(settings)
        scalars = [name for name in schema.names if name not in _LISTS]
        encodings = {path: name for path, name in _ENCODINGS.items() if path.partition(".")[0] in schema.names}
        with pq.ParquetWriter(
            sink, schema, version="2.6", compression="zstd", use_dictionary=scalars, column_encoding=encodings
        ) as writer:
            for batch in to_record_batches(records):
                writer.write_table(pa.Table.from_batches([batch], schema), row_group_size=MAX_ROWS_PER_BATCH)
        return sink.getvalue().to_pybytes()

    def load(self, content: pa.Buffer, where: str) -> Iterator[CodeRecord]:
        """Yield the rows of a file, reading one row group at a time.

        Raises DatasetError if the file is damaged or has other columns.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            schema = _schema_of(file, where)
            for index in range(file.num_row_groups):
                yield from _rows(file.read_row_group(index).cast(schema), where)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{where}: expected Parquet of codes: {error}; export it again") from error


def _schema_of(file: pq.ParquetFile, where: str) -> pa.Schema:
    found = file.schema_arrow
    for columns in ALL_COLUMNS:
        if columns.equals(found):
            return columns
    raise DatasetError(f"{where}: columns {', '.join(found.names)}: expected those of {' or '.join(ROW_FORMATS)}")


def _rows(table: pa.Table, where: str) -> Iterator[CodeRecord]:
    for batch in table.to_batches():
        if damaged := damaged_keys(batch):
            raise DatasetError(f"{where}: row {damaged[0]!r}: codes do not match their checksum; export it again")
        yield from from_record_batch(batch)
