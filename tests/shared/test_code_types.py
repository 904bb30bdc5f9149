"""A dataset from its rows through every job that needs no model, for both types of codes: the digest stays the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.report.text import summary_text
from shared.codec import Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial
from shared.dataset.readers import KeyReader, RowReader
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import ShapeError
from shared.exchange.importer import import_dataset
from shared.exchange.options import ImportOptions
from shared.maintenance.options import SealOptions
from shared.maintenance.salvage import repaired_units, set_damaged_aside
from shared.maintenance.seal import seal
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from tests.support.exports import run_export
from tests.support.flip import flip_bit
from tests.support.small_datasets import CODEC, CODES_SETTINGS, WIDE_CODEC, code_rows, digest, write_dataset


@pytest.fixture(params=[CODEC, WIDE_CODEC], ids=["uint16", "uint32"])
def codec(request: pytest.FixtureRequest) -> Codec:
    found: Codec = request.param
    return found


@pytest.fixture
def settings(codec: Codec) -> DatasetSettings:
    return replace(CODES_SETTINGS, codec=codec)


@pytest.fixture
def rows(codec: Codec) -> list[CodeRecord]:
    return code_rows(codec)


@pytest.fixture
def dataset(tmp_path: Path, rows: list[CodeRecord], settings: DatasetSettings) -> Dataset:
    return write_dataset(tmp_path / "codes", rows, settings)


def damaged_unit(dataset: Dataset, row: CodeRecord, folder: str) -> int:
    """Flip a bit of the codes of a row, wherever they are; return the unit of the row."""
    files = [path for path in (dataset.root / folder).glob("*.arrow") if row.codes_bytes in path.read_bytes()]
    flip_bit(files[0], row.codes_bytes)
    plan = dataset.plan()
    return next(unit for unit in range(len(plan)) if row.src_index in plan.src_indices(unit))


def test_readers_return_the_codes_in_their_type(dataset: Dataset, rows: list[CodeRecord], codec: Codec) -> None:
    by_number, by_key = RowReader(dataset), KeyReader(dataset)
    for number, row in enumerate(rows):
        for found in (by_number.codes_THW(number), by_key.row(row.key).codes_THW):
            assert found.dtype == np.dtype(codec.code_dtype)
            assert np.array_equal(found, row.codes_THW)


def test_a_damaged_row_is_named_and_its_unit_gets_the_same_bytes_again(
    dataset: Dataset, rows: list[CodeRecord]
) -> None:
    before = digest(dataset.root)
    unit = damaged_unit(dataset, rows[4], "parts")
    assert any(repr(rows[4].key) in problem for problem in verify_dataset(Dataset(dataset.root)).problems)
    (aside,) = set_damaged_aside(dataset, plan := dataset.plan())
    assert (aside.unit, aside.kept, aside.rows) == (unit, 2, 3)
    kept = load_partial(dataset, plan, unit, {}).records
    missing = [row for row in rows if row.src_index in plan.src_indices(unit) and row.key not in {k.key for k in kept}]
    assert [row.key for row in missing] == [rows[4].key]
    dataset.commit(UnitResult(unit, sorted([*kept, *missing], key=lambda row: row.src_index)), plan)
    assert list(repaired_units(dataset)) == [(unit, True)]
    assert digest(dataset.root) == before


def test_seal_export_and_import_keep_the_digest(dataset: Dataset, tmp_path: Path) -> None:
    before = digest(dataset.root)
    seal(SealOptions(str(dataset.root), 4000))
    assert digest(dataset.root) == before
    for how in ("webdataset", "parquet"):
        run_export(dataset.root, tmp_path / how, how)
        import_dataset(ImportOptions(str(tmp_path / how), str(tmp_path / f"{how}-back"), unit_rows=4))
        assert digest(tmp_path / f"{how}-back") == before


def test_a_lost_manifest_is_written_again_from_the_shards(dataset: Dataset, rows: list[CodeRecord]) -> None:
    before = digest(dataset.root)
    seal(SealOptions(str(dataset.root), 4000))
    dataset.manifest_path.unlink()
    damaged_unit(dataset, rows[4], "shards")
    opened = Dataset(dataset.root)
    (aside,) = set_damaged_aside(opened, plan := opened.plan())
    assert aside.kept == 2
    opened.commit(UnitResult(aside.unit, [row for row in rows if row.src_index in plan.src_indices(aside.unit)]), plan)
    opened.write_manifest(plan)
    assert digest(dataset.root) == before


def test_upstreams_files_come_back_in_the_type_of_the_codec(
    dataset: Dataset, rows: list[CodeRecord], codec: Codec, tmp_path: Path
) -> None:
    run_export(dataset.root, tmp_path / "pth", "pth")
    import_dataset(ImportOptions(str(tmp_path / "pth"), str(tmp_path / "back"), codec))
    back = KeyReader(Dataset.open(tmp_path / "back"))
    assert all(np.array_equal(back.row(row.key).codes_THW, row.codes_THW) for row in rows)
    assert {back.row(row.key).code_dtype for row in rows} == {codec.code_dtype}
    assert back.row(rows[0].key).src_h == 4 * codec.spatial_factor


def test_inspect_counts_the_codes(dataset: Dataset, rows: list[CodeRecord], codec: Codec) -> None:
    counts = Counter(code for row in rows for code in row.codes_THW.reshape(-1).tolist())
    summary = summarize(dataset)
    assert (summary.codebook_used, summary.codebook_size) == (len(counts), codec.codebook_size)
    expected = "16 × 16 pixels, images only" if codec is WIDE_CODEC else "8 × 8 pixels, 4 frames in videos"
    assert f"a code ({codec.code_dtype}) covers {expected}" in summary_text(summary)


def test_rows_of_the_other_type_are_refused(dataset: Dataset, codec: Codec) -> None:
    other = CODEC if codec is WIDE_CODEC else WIDE_CODEC
    wrong = code_rows(other)[:3]
    dataset.record_path(0).unlink()
    with pytest.raises(ShapeError, match=f"codes are {other.code_dtype}, expected {codec.code_dtype}"):
        dataset.commit(UnitResult(0, wrong), dataset.plan())
    assert not dataset.is_committed(0)
