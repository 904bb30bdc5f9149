"""The directory of a run: checkpoints are replaced as a whole, limited in number, and swept; options are recorded."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_stage.training.model_state import adamw_hyperparameters
from lm_stage.training.options import SftOptions
from lm_stage.training.run_directory import OPTIONS_FILE, Checkpoints, model_files, recorded_options
from shared.storage.atomic import write_directory
from shared.storage.digests import settings_diff

OLD = {"config.json": b"old", "weights": b"old weights", "gone": b"only in the old one"}
NEW = {"config.json": b"new", "weights": b"new weights " * 1000}
CONFIG = {"hidden_size": 2}


def weights(value: float = 1.0) -> dict[str, np.ndarray]:
    return {"a": np.array([value, 2.0], np.float32), "b": np.array([3.0], np.float32)}


def save(checkpoints: Checkpoints, step: int, text: Path) -> Path:
    return checkpoints.save(step, model_files(weights(step), CONFIG, text))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A model directory with the text tokenizer's files and others."""
    directory = tmp_path / "start"
    write_directory(directory, {"tokenizer.json": b"{}", "model.safetensors": b"weights to start from", "notes": b""})
    return directory


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "model"
    write_directory(directory, OLD)
    assert files(directory) == OLD
    write_directory(directory, NEW)
    assert files(directory) == NEW
    assert names(directory.parent) == ["model"]


def fail_at(call: int, original: Any) -> Any:
    """Return `original` with a full disk at one of its calls, counted from 0."""
    calls = iter(range(1000))

    def fail_once(*arguments: Any) -> Any:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    return fail_once


@pytest.mark.parametrize("call", range(2 * len(NEW)))  # one for every file and one for its directory
@pytest.mark.parametrize("before", [OLD, None], ids=["old", "nothing"])
def test_a_failure_before_the_last_file_is_safe_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes] | None, call: int
) -> None:
    directory = tmp_path / "run" / "model"
    if before:
        write_directory(directory, before)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_at(call, os.fsync))
        with pytest.raises(OSError, match="No space left"):
            write_directory(directory, NEW)
    assert names(directory.parent) == (["model"] if before else [])
    assert not before or files(directory) == before
    write_directory(directory, NEW)
    assert files(directory) == NEW


def test_an_interrupted_write_leaves_no_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model"
    write_directory(directory, OLD)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_directory(directory, NEW)
    assert names(tmp_path) == ["model"]
    assert files(directory) == OLD


def test_everything_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, seen = tmp_path / "model", []
    original = os.fsync

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.append((path.relative_to(tmp_path).parts, directory.exists()))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", record)
        write_directory(directory, NEW)
    inside = [(parts, is_named) for parts, is_named in seen if parts]
    assert {parts[1].split(".")[0] for parts, _ in inside if len(parts) == 2} == {"config", "weights"}
    assert not any(is_named for _, is_named in inside)
    assert seen[-1] == ((), True), "the rename itself comes last"


def test_a_checkpoint_holds_a_model_with_its_text_tokenizer(tmp_path: Path, text: Path) -> None:
    directory = save(Checkpoints(tmp_path / "run", 2), 7, text)
    assert directory == tmp_path / "run" / "checkpoints" / "step-00000007"
    assert names(directory) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert json.loads((directory / "config.json").read_bytes()) == CONFIG
    model = load_file(directory / "model.safetensors")
    assert {name: values.tolist() for name, values in model.items()} == {"a": [7.0, 2.0], "b": [3.0]}


def test_a_rename_that_fails_leaves_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "run" / "model"
    write_directory(directory, OLD)
    with monkeypatch.context() as patch:
        patch.setattr("os.rename", fail_at(1, os.rename))
        with pytest.raises(OSError, match="No space left"):
            write_directory(directory, NEW)
    assert files(directory) == OLD
    assert names(directory.parent) == ["model"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_is_saved_in_its_number_type(tmp_path: Path, text: Path, dtype: str) -> None:
    write_directory(tmp_path / "model", model_files(weights(), CONFIG, text, dtype))
    assert names(tmp_path / "model") == ["config.json", "model.safetensors", "tokenizer.json"]
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {name: (str(values.dtype), values.tolist()) for name, values in stored.items()} == {
        "a": (dtype, [1.0, 2.0]),
        "b": (dtype, [3.0]),
    }


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [1000]), (2, [200, 1000]), (3, [30, 200, 1000]), (9, [4, 30, 200, 1000])]
)
def test_the_newest_few_are_kept(tmp_path: Path, text: Path, keep: int, kept: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path / "run", keep)
    for step in (4, 30, 200, 1000):
        save(checkpoints, step, text)
        assert checkpoints.newest() == checkpoints.root / f"step-{step:08d}"
    assert names(checkpoints.root) == [f"step-{step:08d}" for step in kept]


def test_old_checkpoints_are_deleted_after_the_new_one_is_complete(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 1)
    old = save(checkpoints, 1, text)
    before = files(old)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail_at(3, os.fsync))
        with pytest.raises(OSError, match="No space left"):
            save(checkpoints, 2, text)
    assert names(checkpoints.root) == [old.name]
    assert checkpoints.newest() == old
    assert files(old) == before


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    assert checkpoints.newest() is None
    checkpoints.sweep()
    assert not checkpoints.root.exists(), "reading creates nothing"
    checkpoints.root.mkdir(parents=True)
    assert checkpoints.newest() is None


def test_leftovers_of_a_killed_run_are_ignored_and_swept(tmp_path: Path, text: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    whole = save(checkpoints, 5, text)
    before = files(whole)
    for name in ("step-00000009.123-0a1b2c3d.tmp", "step-00000005.77-ffffffff.tmp"):
        (checkpoints.root / name).mkdir()
        (checkpoints.root / name / "model.safetensors").write_bytes(b"half")
    (checkpoints.root / "step-00000009-mine").mkdir()
    (checkpoints.root / "notes.tmp").mkdir()
    assert checkpoints.newest() == whole
    checkpoints.sweep()
    assert names(checkpoints.root) == ["notes.tmp", "step-00000005", "step-00000009-mine"]
    assert files(whole) == before
    assert checkpoints.newest() == whole


def test_other_directories_do_not_count_as_checkpoints_to_keep(tmp_path: Path, text: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", 2)
    save(checkpoints, 1, text)
    (checkpoints.root / "step-best").mkdir()
    for step in (2, 3):
        save(checkpoints, step, text)
    assert names(checkpoints.root) == ["step-00000002", "step-00000003", "step-best"]


def test_options_recorded_under_earlier_names_are_translated(tmp_path: Path) -> None:
    """A run that started with `--row-tokens 64 --rows 2 --accumulate 2 --floor 0.05` resumes with today's flags."""
    earlier = Path(__file__).parents[2] / "golden" / "sft_run_0.1" / "options.json"
    (tmp_path / OPTIONS_FILE).write_bytes(earlier.read_bytes())
    recorded = recorded_options(tmp_path)
    changed = {"seq_length": 64, "micro_batch_size": 2, "gradient_accumulation_steps": 2, "min_lr_ratio": 0.05}
    options = SftOptions(("codes",), "run", steps=12, learning_rate=1e-3, **changed)
    given = json.loads(json.dumps({**options.recorded(processes=1), **asdict(adamw_hyperparameters(options))}))
    assert recorded is not None
    given["dtype"] = "float32"  # the device decides
    assert settings_diff(recorded, given | {name: recorded[name] for name in ("data", "start")}) == []
