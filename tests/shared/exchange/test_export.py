"""Exports: equal bytes, resumed, and back again; read by the libraries whose formats they are."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.plan import REFUSED, PlannedInput
from shared.dataset.rows import SCHEMA
from shared.errors import ConfigMismatchError, DatasetError, Interrupted, UsageError
from shared.exchange.export import ExportResult, export
from shared.exchange.export_run import ExportRun
from shared.exchange.formats.shards import group_by_size, max_row_bytes
from shared.exchange.importer import import_dataset, split_runs
from shared.exchange.manifest import ExportManifest
from shared.exchange.options import ExportOptions, ImportOptions
from shared.maintenance.seal import SealOptions, seal
from tests.support.small_datasets import (
    CODES_SETTINGS,
    SEQUENCE_SETTINGS,
    all_rows,
    code_rows,
    digest,
    image,
    sequence_rows,
    write_dataset,
)

CODES_BYTES = 20000  # a few rows a file


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "codes", code_rows(), CODES_SETTINGS).root


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "seqs", sequence_rows(), SEQUENCE_SETTINGS).root


def run(dataset: Path, out: Path, how: str, shard_bytes: int = CODES_BYTES) -> ExportResult:
    return export(ExportOptions(str(dataset), str(out), how, shard_bytes, prefix="feature"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_two_exports_are_equal_byte_for_byte_and_leave_no_other_files(tmp_path: Path, codes: Path, how: str) -> None:
    first, second = run(codes, tmp_path / "a", how), run(codes, tmp_path / "b", how)
    assert first == second
    assert first.rows == 18
    assert first.written == first.files > 1
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == first.files + 1


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
@pytest.mark.parametrize("kind", ["codes", "sequences"])
def test_an_export_comes_back_as_it_was(tmp_path: Path, request: pytest.FixtureRequest, how: str, kind: str) -> None:
    dataset = request.getfixturevalue(kind)
    result = run(dataset, tmp_path / "out", how)
    imported = import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=4))
    assert (imported.rows, imported.quarantined, imported.units_missing) == (result.rows, 0, 0)
    assert digest(tmp_path / "back") == digest(dataset) == result.digest
    assert [row.digest() for row in all_rows(tmp_path / "back")] == [row.digest() for row in all_rows(dataset)]
    assert Dataset.open(tmp_path / "back").plan().settings == Dataset.open(dataset).plan().settings


def test_the_export_of_an_import_is_the_export_it_came_from(tmp_path: Path, codes: Path) -> None:
    run(codes, tmp_path / "out", "webdataset")
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=5))
    run(tmp_path / "back", tmp_path / "again", "webdataset")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_only_what_is_missing_or_differs_is_written_again(tmp_path: Path, codes: Path, how: str) -> None:
    out = tmp_path / "out"
    whole = run(codes, out, how)
    expected = contents(out)
    assert run(codes, out, how).written == 0
    listed = json.loads((out / "manifest.json").read_bytes())["files"]
    (out / listed[0]["file"]).unlink()
    (out / listed[1]["file"]).write_bytes(b"cut")
    (out / "manifest.json").unlink()
    assert run(codes, out, how).written == 2
    assert contents(out) == expected
    assert run(codes, out, how, 1 << 20).files < whole.files
    assert len(list(out.iterdir())) == 2, "files of other sizes are gone"


def stop_after(count: int, owner: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM at the end of the `count`-th call."""
    original, calls = getattr(owner, method), iter(range(1, 1000))

    def call(*values: Any) -> Any:
        result = original(*values)
        if next(calls) == count:
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, method, call)


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_a_stopped_export_lists_nothing_and_goes_on(
    tmp_path: Path, codes: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(codes, tmp_path / "whole", how)
    stop_after(2, ExportRun, "write_unsynced" if how == "pth" else "write", monkeypatch)
    with pytest.raises(Interrupted, match=r"2 (files|samples) written"):
        run(codes, tmp_path / "out", how)
    assert not (tmp_path / "out/manifest.json").exists()
    assert not (tmp_path / "out/list/train.json").exists()
    monkeypatch.undo()
    result = run(codes, tmp_path / "out", how)
    assert result.written == result.files - 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_stopped_import_goes_on(tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(codes, tmp_path / "out", "webdataset")
    options = ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=2)
    stop_after(3, Dataset, "commit", monkeypatch)
    with pytest.raises(Interrupted, match="3 units committed"):
        import_dataset(options)
    monkeypatch.undo()
    assert import_dataset(options).rows == 18 - 6
    assert import_dataset(options).rows == 0
    assert digest(tmp_path / "back") == digest(codes)


def test_sequences_without_codes_are_left_out_of_upstreams_layout_and_counted(tmp_path: Path, sequences: Path) -> None:
    result = run(sequences, tmp_path / "out", "pth")
    assert (result.rows, result.files, result.skipped) == (5, 4, 1)
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), Codec(None, 32768)))
    assert [row.key for row in all_rows(tmp_path / "back")] == ["s/0", "s/2", "s/3", "s/4"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(UsageError, match="expected one of webdataset, parquet, pth"):
        run(codes, tmp_path / "new", "zip")
    with pytest.raises(UsageError, match="holds a dataset"):
        run(codes, codes, "parquet")
    run(codes, tmp_path / "out", "webdataset")
    with pytest.raises(UsageError, match="as webdataset of another dataset"):
        run(codes, tmp_path / "out", "parquet")
    next((codes / "parts").glob("*.json")).unlink()
    with pytest.raises(DatasetError, match="units are missing"):
        run(codes, tmp_path / "new", "parquet")


def test_what_cannot_be_imported_is_refused(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(UsageError, match="found neither"):
        import_dataset(ImportOptions(str(tmp_path), str(tmp_path / "back")))
    run(codes, tmp_path / "out", "webdataset")
    with pytest.raises(UsageError, match="leave the codec out"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), Codec(None, 8)))
    other = write_dataset(tmp_path / "other", code_rows(), replace(CODES_SETTINGS, preprocessing={"resize": "area"}))
    run(other.root, tmp_path / "other_out", "webdataset")
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    with pytest.raises(ConfigMismatchError, match=r"preprocessing\.resize"):
        import_dataset(ImportOptions(str(tmp_path / "other_out"), str(tmp_path / "back")))


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_a_truncated_or_missing_file_is_named(tmp_path: Path, codes: Path, how: str) -> None:
    run(codes, tmp_path / "out", how)
    path = sorted((tmp_path / "out").glob("codes-*"))[1]
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DatasetError, match=rf"{path.name}: sha256 .* expected"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name}: missing"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    assert not (tmp_path / "back/plan.arrow").exists()


def test_another_export_under_a_half_done_import_is_refused(
    tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(codes, tmp_path / "out", "parquet")
    stop_after(1, Dataset, "commit", monkeypatch)
    with pytest.raises(Interrupted):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    monkeypatch.undo()
    shutil.rmtree(codes)
    write_dataset(codes, code_rows()[1:], CODES_SETTINGS)
    run(codes, tmp_path / "out", "parquet")
    with pytest.raises(DatasetError, match="started from other rows; import into a new dataset"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))


def test_a_flipped_bit_of_an_exports_manifest_is_noticed(tmp_path: Path, codes: Path) -> None:
    run(codes, tmp_path / "out", "parquet")
    data = bytearray((tmp_path / "out/manifest.json").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out/manifest.json").write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        ExportManifest.read(tmp_path / "out")


def test_groups_fill_files_without_passing_their_size() -> None:
    rows = [image(index, str(index)) for index in range(7)]
    size_bytes = max_row_bytes(rows[0])
    assert [len(group) for group in group_by_size(rows, 3 * size_bytes)] == [3, 3, 1]
    assert [len(group) for group in group_by_size(rows, 1)] == [1] * 7
    assert list(group_by_size([], 100)) == []


def test_runs_are_cut_where_size_changes_but_not_at_rows_without_a_grid() -> None:
    sizes = [REFUSED, (1, 2, 2), REFUSED, (1, 2, 2), (1, 3, 3), REFUSED, (1, 2, 2)]
    units = list(split_runs(((size, PlannedInput(i, str(i), "")) for i, size in enumerate(sizes)), 3))
    assert [[item.src_index for item in unit.inputs] for unit in units] == [[0, 1, 2], [3], [4, 5], [6]]
    assert [unit.size for unit in units] == [(1, 2, 2), (1, 2, 2), (1, 3, 3), (1, 2, 2)]


def test_parquet_holds_the_columns_of_a_part_in_row_groups_of_256(tmp_path: Path) -> None:
    rows = [image(index, str(index)) for index in range(300)]
    dataset = write_dataset(tmp_path / "codes", rows, CODES_SETTINGS, unit_rows=100)
    export(ExportOptions(str(dataset.root), str(tmp_path / "out"), "parquet"))
    file = pq.ParquetFile(tmp_path / "out/codes-00000.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [256, 44]
    assert file.schema_arrow.equals(SCHEMA)
    part = pa.ipc.open_file(dataset.parts / next(dataset.commit_records()).part).read_all()
    assert json.loads(file.schema_arrow.metadata[b"emu3"]) == json.loads(part.schema.metadata[b"emu3"])
    table = file.read()
    assert table.column("codes").slice(0, 100).to_pylist() == part.column("codes").to_pylist()
    assert table.column("src_sha256").slice(0, 100).to_pylist() == part.column("src_sha256").to_pylist()


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets")


@pytest.mark.filterwarnings("default")
def test_hugging_face_datasets_reads_our_parquet(tmp_path: Path, codes: Path, huggingface) -> None:  # type: ignore[no-untyped-def]
    run(codes, tmp_path / "out", "parquet")
    found = huggingface.load_dataset(
        "parquet", data_files=str(tmp_path / "out/*.parquet"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    rows = code_rows()
    assert found["key"][:] == [row.key for row in rows]
    assert found[1]["text"] is None
    assert found[1]["src_sha256"] == rows[1].src_sha256
    shape = (found[17]["t"], found[17]["h"], found[17]["w"])
    assert np.array_equal(np.reshape(found[17]["codes"], shape), rows[17].codes_THW)


@pytest.mark.filterwarnings("default")
def test_hugging_face_datasets_reads_our_shards(tmp_path: Path, codes: Path, huggingface) -> None:  # type: ignore[no-untyped-def]
    seal(SealOptions(str(codes)))
    found = huggingface.load_dataset(
        "arrow", data_files=str(codes / "shards/codes-*.arrow"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert found["key"][:] == [row.key for row in code_rows()]
    assert found[0]["codes"] == code_rows()[0].codes_THW.reshape(-1).tolist()


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_an_export_may_lie_in_an_object_store(tmp_path: Path, codes: Path, how: str) -> None:
    out = f"memory://test_export/{tmp_path.name}/{how}"
    options = ExportOptions(str(codes), out, how, CODES_BYTES)
    assert export(options).written > export(options).written == 0
    import_dataset(ImportOptions(out, str(tmp_path / "back")))
    assert digest(tmp_path / "back") == digest(codes)
