"""Imports: rows come back as they were, a stopped import resumes, and what does not fit is refused."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.plan import REFUSED, PlannedInput
from shared.dataset.rows import CodeRecord
from shared.errors import ConfigMismatchError, DatasetError, Interrupted, UsageError
from shared.exchange.formats.shard_source import ShardSource
from shared.exchange.importer import import_dataset, split_runs
from shared.exchange.options import ImportOptions
from shared.jobs import prefetch
from tests.support.exports import run_export, stop_after
from tests.support.small_datasets import (
    CODES_SETTINGS,
    all_rows,
    code_rows,
    digest,
    write_dataset,
)


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
@pytest.mark.parametrize("kind", ["codes", "sequences", "wide_codes", "wide_sequences"])
def test_an_export_comes_back_as_it_was(tmp_path: Path, request: pytest.FixtureRequest, how: str, kind: str) -> None:
    dataset = request.getfixturevalue(kind)
    result = run_export(dataset, tmp_path / "out", how)
    imported = import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=4))
    assert (imported.rows, imported.quarantined, imported.units_missing) == (result.rows, 0, 0)
    assert digest(tmp_path / "back") == digest(dataset) == result.digest
    assert [row.digest() for row in all_rows(tmp_path / "back")] == [row.digest() for row in all_rows(dataset)]
    assert Dataset.open(tmp_path / "back").plan().settings == Dataset.open(dataset).plan().settings


def test_a_stopped_import_goes_on(tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_export(codes, tmp_path / "out", "webdataset")
    options = ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=2)
    stop_after(3, Dataset, "commit", monkeypatch)
    with pytest.raises(Interrupted, match="3 units committed"):
        import_dataset(options)
    monkeypatch.undo()
    assert import_dataset(options).rows == 18 - 6
    assert import_dataset(options).rows == 0
    assert digest(tmp_path / "back") == digest(codes)


@pytest.mark.parametrize("is_planned", [False, True])
def test_a_blocked_read_does_not_delay_a_stop(
    tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch, is_planned: bool
) -> None:
    run_export(codes, tmp_path / "out", "webdataset")
    options = ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), unit_rows=2)
    gate = threading.Event()
    if is_planned:
        stop_after(1, Dataset, "commit", monkeypatch)
        with pytest.raises(Interrupted):
            import_dataset(options)
        monkeypatch.undo()

    def block(source: ShardSource, index: int) -> Iterator[CodeRecord]:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        gate.wait()
        yield from ()

    monkeypatch.setattr(ShardSource, "shard_rows", block)
    monkeypatch.setattr(prefetch, "STOP_S", 0.1)
    monkeypatch.setattr(prefetch, "CLOSE_S", 0.1)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        import_dataset(options)
    gate.set()
    monkeypatch.undo()
    import_dataset(options)
    assert digest(tmp_path / "back") == digest(codes)


def test_what_cannot_be_imported_is_refused(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(UsageError, match="found neither"):
        import_dataset(ImportOptions(str(tmp_path), str(tmp_path / "back")))
    run_export(codes, tmp_path / "out", "webdataset")
    with pytest.raises(UsageError, match="leave the codec out"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back"), Codec(None, 8, 8, 4)))
    other = write_dataset(tmp_path / "other", code_rows(), replace(CODES_SETTINGS, preprocessing={"resize": "area"}))
    run_export(other.root, tmp_path / "other_out", "webdataset")
    import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    with pytest.raises(ConfigMismatchError, match=r"preprocessing\.resize"):
        import_dataset(ImportOptions(str(tmp_path / "other_out"), str(tmp_path / "back")))


@pytest.mark.parametrize("how", ["webdataset", "parquet"])
def test_a_truncated_or_missing_file_is_named(tmp_path: Path, codes: Path, how: str) -> None:
    run_export(codes, tmp_path / "out", how)
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
    run_export(codes, tmp_path / "out", "parquet")
    stop_after(1, Dataset, "commit", monkeypatch)
    with pytest.raises(Interrupted):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))
    monkeypatch.undo()
    shutil.rmtree(codes)
    write_dataset(codes, code_rows()[1:], CODES_SETTINGS)
    run_export(codes, tmp_path / "out", "parquet")
    with pytest.raises(DatasetError, match="started from other rows; import into a new dataset"):
        import_dataset(ImportOptions(str(tmp_path / "out"), str(tmp_path / "back")))


def test_runs_are_cut_where_size_changes_but_not_at_rows_without_a_grid() -> None:
    sizes = [REFUSED, (1, 2, 2), REFUSED, (1, 2, 2), (1, 3, 3), REFUSED, (1, 2, 2)]
    units = list(split_runs(((size, PlannedInput(i, str(i), "")) for i, size in enumerate(sizes)), 3))
    assert [[item.src_index for item in unit.inputs] for unit in units] == [[0, 1, 2], [3], [4, 5], [6]]
    assert [unit.size for unit in units] == [(1, 2, 2), (1, 2, 2), (1, 3, 3), (1, 2, 2)]
