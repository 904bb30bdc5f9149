"""Parquet files, and what other libraries read from them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shared.dataset.columns import columns_of
from shared.dataset.settings import CODES_FORMAT
from shared.exchange.export import export
from shared.exchange.options import ExportOptions
from tests.support.small_datasets import (
    CODES_SETTINGS,
    image,
    write_dataset,
)


def test_parquet_holds_the_columns_of_a_part_in_row_groups_of_256(tmp_path: Path) -> None:
    rows = [image(index, str(index)) for index in range(300)]
    dataset = write_dataset(tmp_path / "codes", rows, CODES_SETTINGS, unit_rows=100)
    export(ExportOptions(str(dataset.root), str(tmp_path / "out"), "parquet"))
    file = pq.ParquetFile(tmp_path / "out/codes-00000.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [256, 44]
    assert file.schema_arrow.equals(columns_of(CODES_FORMAT, "uint16"))
    part = pa.ipc.open_file(dataset.parts / next(dataset.commit_records()).part).read_all()
    assert json.loads(file.schema_arrow.metadata[b"emu3"]) == json.loads(part.schema.metadata[b"emu3"])
    table = file.read()
    assert table.column("codes").slice(0, 100).to_pylist() == part.column("codes").to_pylist()
    assert table.column("src_sha256").slice(0, 100).to_pylist() == part.column("src_sha256").to_pylist()
