"""Exports: equal bytes, resumed, and back again; read by the libraries whose formats they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.errors import DatasetError, Interrupted, UsageError
from shared.exchange.export import export
from shared.exchange.export_run import ExportRun
from shared.exchange.importer import import_dataset
from shared.exchange.manifest import MANIFEST_NAME
from shared.exchange.options import ExportOptions, ImportOptions
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from tests.support.exports import SHARD_BYTES, run_export, stop_after
from tests.support.small_datasets import (
    CODES_SETTINGS,
    all_rows,
    code_rows,
    digest,
    image,
    write_dataset,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_two_exports_are_equal_byte_for_byte_and_leave_no_other_files(tmp_path: Path, codes: Path, how: str) -> None:
    first, second = run_export(codes, tmp_path / "a", how), run_export(codes, tmp_path / "b", how)
    assert first == second
    assert first.rows == 18
    assert first.written == first.files > 1
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == first.files + 1


def test_the_export_of_an_import_is_the_export_it_came_from(tmp_path: Path, codes: Path) -> None:
    run_export(codes, tmp_path / "out", "webdataset")
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=5))
    run_export(tmp_path / "back", tmp_path / "again", "webdataset")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_only_what_is_missing_or_differs_is_written_again(tmp_path: Path, codes: Path, how: str) -> None:
    out = tmp_path / "out"
    whole = run_export(codes, out, how)
    expected = contents(out)
    assert run_export(codes, out, how).written == 0
    listed = json.loads((out / MANIFEST_NAME).read_bytes())["files"]
    (out / listed[0]["file"]).unlink()
    (out / listed[1]["file"]).write_bytes(b"cut")
    (out / MANIFEST_NAME).unlink()
    assert run_export(codes, out, how).written == 2
    assert contents(out) == expected
    assert run_export(codes, out, how, 1 << 20).files < whole.files
    assert len(list(out.iterdir())) == 2, "files of other sizes are gone"


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_a_stopped_export_lists_nothing_and_goes_on(
    tmp_path: Path, codes: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_export(codes, tmp_path / "whole", how)
    stop_after(2, ExportRun, "write_unsynced" if how == "pth" else "write", monkeypatch)
    with pytest.raises(Interrupted, match=r"2 (files|samples) written"):
        run_export(codes, tmp_path / "out", how)
    assert not (tmp_path / "out/__emu3__/manifest.json").exists()
    assert not (tmp_path / "out/list/train.json").exists()
    monkeypatch.undo()
    result = run_export(codes, tmp_path / "out", how)
    assert result.written == result.files - 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_sequences_without_codes_are_left_out_of_upstreams_layout_and_counted(tmp_path: Path, sequences: Path) -> None:
    result = run_export(sequences, tmp_path / "out", "pth")
    assert (result.rows, result.files, result.skipped) == (5, 4, 1)
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), Codec(None, 32768, 8, 4)))
    assert [row.key for row in all_rows(tmp_path / "back")] == ["s/0", "s/2", "s/3", "s/4"]


def test_what_cannot_be_exported_is_refused(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(UsageError, match="expected one of webdataset, parquet, pth"):
        run_export(codes, tmp_path / "new", "zip")
    with pytest.raises(UsageError, match="holds a dataset"):
        run_export(codes, codes, "parquet")
    run_export(codes, tmp_path / "out", "webdataset")
    with pytest.raises(UsageError, match="as webdataset of another dataset"):
        run_export(codes, tmp_path / "out", "parquet")
    next((codes / "parts").glob("*.json")).unlink()
    with pytest.raises(DatasetError, match="units are missing"):
        run_export(codes, tmp_path / "new", "parquet")


@pytest.mark.parametrize("how", ["webdataset", "pth"])
def test_units_that_a_repair_sets_aside_meanwhile_are_not_left_out(
    tmp_path: Path, codes: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder = ExportRun.make_folder

    def make_folder_and_damage(run: ExportRun, name: str = "") -> Path:
        record = run.dataset.record_path(1)
        if record.is_file():
            (run.dataset.parts / run.dataset.record(1).part).unlink()
            record.unlink()
        return make_folder(run, name)

    monkeypatch.setattr(ExportRun, "make_folder", make_folder_and_damage)
    with pytest.raises(DatasetError, match="missing"):
        run_export(codes, tmp_path / "out", how)
    assert not (tmp_path / "out" / MANIFEST_NAME).exists()
    assert not (tmp_path / "out/list/train.json").exists()


@pytest.fixture
def huggingface(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("datasets")


@pytest.mark.filterwarnings("default")
def test_hugging_face_datasets_reads_our_parquet(tmp_path: Path, codes: Path, huggingface) -> None:  # type: ignore[no-untyped-def]
    run_export(codes, tmp_path / "out", "parquet")
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
        "arrow", data_files=str(codes / "shards/*.arrow"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert found["key"][:] == [row.key for row in code_rows()]
    assert found[0]["codes"] == code_rows()[0].codes_THW.reshape(-1).tolist()


def test_pyarrow_reads_the_folder_of_shards(codes: Path) -> None:
    seal(SealOptions(str(codes), 1))
    table = pyarrow.dataset.dataset(codes / "shards", format="arrow").to_table()
    assert sorted(table.column("key").to_pylist()) == sorted(row.key for row in code_rows())


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", ["webdataset", "parquet"])
@pytest.mark.parametrize("by_name", [True, False])
def test_hugging_face_datasets_reads_the_folder_of_an_export(
    tmp_path: Path,
    how: str,
    by_name: bool,
    huggingface,  # type: ignore[no-untyped-def]
) -> None:
    """Every row is a sample, whether rows have captions or not, and nothing else is one."""
    rows = [image(index, f"picture-{index}", text=None if index % 3 else f"caption {index}") for index in range(9)]
    dataset = write_dataset(tmp_path / "codes", rows, CODES_SETTINGS)
    run_export(dataset.root, tmp_path / "out", how)
    builder = (how, None, str(tmp_path / "out")) if by_name else (str(tmp_path / "out"),)
    found = huggingface.load_dataset(*builder, cache_dir=str(tmp_path / "cache"), split="train")
    keys = [sample["json"]["key"] for sample in found] if how == "webdataset" else found["key"][:]
    assert keys == [row.key for row in rows]


def test_pyarrow_reads_the_folder_of_a_parquet_export(tmp_path: Path, codes: Path) -> None:
    run_export(codes, tmp_path / "out", "parquet")
    assert pyarrow.dataset.dataset(tmp_path / "out", format="parquet").count_rows() == len(code_rows())


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_exports_of_version_0_1_are_imported_and_continued(tmp_path: Path, codes: Path, how: str) -> None:
    """Their manifest lies beside the files."""
    run_export(codes, tmp_path / "new", how)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    (tmp_path / "old" / MANIFEST_NAME).rename(tmp_path / "old/manifest.json")
    (tmp_path / "old" / MANIFEST_NAME).parent.rmdir()
    import_dataset(ImportOptions(str(tmp_path / "old"), str(tmp_path / "back")))
    assert digest(tmp_path / "back") == digest(codes)
    assert run_export(codes, tmp_path / "old", how).written == 0
    assert contents(tmp_path / "old") == contents(tmp_path / "new")


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_what_a_killed_export_left_is_removed(tmp_path: Path, codes: Path, how: str) -> None:
    run_export(codes, tmp_path / "out", how)
    expected = contents(tmp_path / "out")
    folders = {path.parent for path in (tmp_path / "out").rglob("*") if path.is_file()}
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for folder in folders:
        (folder / f"codes-00000.tar.{int(killed.stdout)}-0123abcd.tmp").write_bytes(b"half")
        (folder / f"codes-00000.tar.{os.getppid()}-0123abcd.tmp").write_bytes(b"of a running export")
        (folder / "notes.tmp").write_bytes(b"of the user")
        (folder / f"notes.{int(killed.stdout)}-0123abcd.tmp").mkdir()
    run_export(codes, tmp_path / "out", how)
    left = {name: data for name, data in contents(tmp_path / "out").items() if name not in expected}
    assert sorted(left.values()) == sorted([b"of a running export", b"of the user"] * len(folders))


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_an_export_may_lie_in_an_object_store(tmp_path: Path, codes: Path, how: str) -> None:
    out = f"memory://test_export/{tmp_path.name}/{how}"
    options = ExportOptions(str(codes), out, how, SHARD_BYTES)
    assert export(options).written > export(options).written == 0
    import_dataset(ImportOptions(out, str(tmp_path / "back")))
    assert digest(tmp_path / "back") == digest(codes)


def test_units_that_a_repair_sets_aside_meanwhile_are_exported_or_an_error(tmp_path: Path, codes: Path) -> None:
    dataset = Dataset(codes)
    run = ExportRun(ExportOptions(str(codes), str(tmp_path / "out")), dataset)
    expected = len(list(run.read_rows()))
    record = next(record for record in dataset.commit_records() if record.rows)
    dataset.record_path(record.unit).unlink()
    assert len(list(run.read_rows())) == expected
    (dataset.parts / record.part).unlink()
    with pytest.raises(DatasetError, match=record.part):
        list(run.read_rows())
    with pytest.raises(DatasetError, match=r"1 of .* units are missing"):
        ExportRun(run.options, dataset)


def test_a_folder_with_the_name_of_an_exported_file_stays(tmp_path: Path, codes: Path) -> None:
    folder = tmp_path / "out" / "codes-00099.tar"
    folder.mkdir(parents=True)
    assert run_export(codes, tmp_path / "out", "webdataset").rows == 18
    assert folder.is_dir()
