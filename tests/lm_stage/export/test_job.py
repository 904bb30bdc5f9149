"""The export of sequences: complete or absent, the same bytes again, and refused before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.data import batch
from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.export import job
from lm_stage.export.job import export_sequences
from lm_stage.export.manifest import MANIFEST_NAME
from lm_stage.export.options import SequenceExportOptions
from shared.errors import CheckpointError, ConfigMismatchError, DatasetError, Interrupted, RelayError, UsageError
from shared.jobs.signals import StopFlag
from tests.support.sequence_exports import CODES, SMALL, contents

FILES = {"tokens.bin", "tokens.idx", "loss_mask.bin", "loss_mask.idx", MANIFEST_NAME, "left_out.jsonl"}


def test_equal_inputs_give_equal_bytes(options: SequenceExportOptions, tmp_path: Path) -> None:
    result = export_sequences(options)
    moved = shutil.copytree(SMALL, tmp_path / "moved")
    datasets = tuple(text.replace(str(CODES), str(moved / "codes")) for text in options.datasets)
    again = replace(options, out=str(tmp_path / "again"), datasets=datasets, model=str(moved / "model"))
    assert export_sequences(again) == result
    assert contents(tmp_path / "again") == contents(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == FILES


def test_the_manifest_describes_the_files(options: SequenceExportOptions, tmp_path: Path) -> None:
    result = export_sequences(options)
    manifest = json.loads((tmp_path / "out" / MANIFEST_NAME).read_text())
    assert {one["file"]: one["sha256"] for one in manifest["files"]}.items() <= contents(tmp_path / "out").items()
    assert manifest["types"] == {"tokens": "uint16", "loss_mask": "uint8"}
    assert manifest["counts"]["documents"] == result.documents > 12
    settings = manifest["settings"]
    assert settings["vocabulary_size"] == json.loads((SMALL / "model" / "config.json").read_text())["vocab_size"]
    assert [(one["task"], one["weight"]) for one in settings["mixture"]] == [
        ("image", 1.0),
        ("understand", 0.5),
        ("text", 3.0),
    ]


def test_a_finished_export_stays(options: SequenceExportOptions, tmp_path: Path) -> None:
    first = export_sequences(options)
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()}
    assert export_sequences(options) == replace(first, is_new=False)
    assert {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir()} == inodes


def test_a_damaged_export_is_written_again(options: SequenceExportOptions, tmp_path: Path) -> None:
    export_sequences(options)
    before, data = contents(tmp_path / "out"), (tmp_path / "out" / "tokens.bin").read_bytes()
    (tmp_path / "out" / "tokens.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert export_sequences(options).is_new
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("changes", [{"seed": 1}, {"seq_length": 99}, {"documents": "row"}, {"loss": "visual"}])
def test_other_settings_are_refused(options: SequenceExportOptions, tmp_path: Path, changes: dict[str, Any]) -> None:
    options = replace(options, datasets=options.datasets[:1])
    export_sequences(options)
    before = contents(tmp_path / "out")
    with pytest.raises(ConfigMismatchError, match=rf"{next(iter(changes))}: recorded (?s:.*)use those, or another OUT"):
        export_sequences(replace(options, **changes))
    assert contents(tmp_path / "out") == before


def test_a_changed_manifest_is_refused(options: SequenceExportOptions, tmp_path: Path) -> None:
    export_sequences(options)
    path = tmp_path / "out" / MANIFEST_NAME
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 3'))
    with pytest.raises(DatasetError, match="does not match its checksum"):
        export_sequences(options)


def make_file(out: Path) -> None:
    out.write_bytes(b"")


def make_folder(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_bytes(b"mine")


@pytest.mark.parametrize(
    ("prepare", "changes", "error", "message"),
    [
        (make_file, {}, UsageError, "expected a directory for OUT, got a file"),
        (make_folder, {}, UsageError, "contains files but no manifest.json"),
        (None, {"out": "s3://bucket/out"}, UsageError, "expected a local directory for OUT"),
        (None, {"out": "codes,task=text"}, UsageError, "this is a dataset"),
        (None, {"out": str(CODES)}, UsageError, "expected DATASETS, then the directory OUT; this is a dataset"),
        (None, {"seq_length": 129}, UsageError, "at most the 128 positions of the model, got 129"),
        (None, {"seq_length": 20}, UsageError, "no sample fits a row of 20 tokens"),
        (None, {"model": "nowhere"}, CheckpointError, "nowhere"),
        (None, {"datasets": ("nowhere",)}, RelayError, "nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    options: SequenceExportOptions,
    tmp_path: Path,
    prepare: Callable[[Path], None] | None,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if prepare:
        prepare(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        export_sequences(replace(options, **changes))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["megatron", "mindrecord"])
def test_a_failed_export_leaves_nothing(
    options: SequenceExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls, build = [], batch._build_sequence

    def fail_later(*arguments: Any) -> TrainingSequence:
        calls.append(arguments)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        return build(*arguments)

    monkeypatch.setattr(batch, "_build_sequence", fail_later)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space left"):
        export_sequences(replace(options, format=name))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_stopped_export_leaves_nothing(
    options: SequenceExportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = StopFlag()
    flag.set("SIGTERM")
    monkeypatch.setattr(job, "stop_on_signals", lambda: nullcontext(flag))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Interrupted, match=r"SIGTERM: .*out was not written; start again"):
        export_sequences(options)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_export_left_is_removed(options: SequenceExportOptions, tmp_path: Path) -> None:
    left = tmp_path / "out.999999999-00000000.tmp"
    left.mkdir()
    (left / "tokens.bin").write_bytes(b"half")
    export_sequences(options)
    assert not left.exists()


def damage(mixture: Mixture) -> None:
    """Make the codes of the first picture unreadable."""
    samples: Any = mixture.sample_sets[0]
    intact = samples.rows.codes_THW

    def codes_THW(index: int) -> np.ndarray:
        if index == 0:
            raise DatasetError("row 0: damaged")
        return intact(index)

    samples.rows.codes_THW = codes_THW


@pytest.fixture
def with_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    open_intact = job.open_mixture

    def open_damaged(*arguments: Any) -> Mixture:
        mixture = open_intact(*arguments)
        damage(mixture)
        return mixture

    monkeypatch.setattr(job, "open_mixture", open_damaged)


@pytest.mark.usefixtures("with_damage")
def test_damage_stops_the_export(options: SequenceExportOptions, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="row 0: damaged"):
        export_sequences(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("with_damage")
def test_damage_may_be_skipped_and_is_listed(options: SequenceExportOptions, tmp_path: Path) -> None:
    result = export_sequences(replace(options, skip_damaged=True))
    lines = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert result.damaged == 1
    assert lines == [{"reason": "row 0: damaged"}]
    assert set(contents(tmp_path / "out")) == FILES


def test_an_export_without_damaged_samples_is_written_again(
    options: SequenceExportOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damage may have been repaired since."""
    options = replace(options, skip_damaged=True)
    with monkeypatch.context() as patch:
        open_intact = job.open_mixture

        def open_damaged(*arguments: Any) -> Mixture:
            mixture = open_intact(*arguments)
            damage(mixture)
            return mixture

        patch.setattr(job, "open_mixture", open_damaged)
        assert export_sequences(options).damaged == 1
    again = export_sequences(options)
    assert (again.is_new, again.damaged) == (True, 0)
    assert not export_sequences(options).is_new
