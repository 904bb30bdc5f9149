"""The recorded options of a run: their earlier names, their checksum, and their copies in checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from lm_stage.training.checkpoints import Checkpoints
from lm_stage.training.model_state import adamw_hyperparameters
from lm_stage.training.options import SftOptions
from lm_stage.training.run_directory import (
    OPTIONS_FILE,
    check_resumable,
    checked_run,
    recorded_options,
    write_options,
)
from shared.errors import CheckpointError, ConfigMismatchError, UsageError
from shared.storage.digests import settings_diff

OPTIONS = {"seed": 7, "learning_rate": 0.001, "datasets": ["a"]}


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


DAMAGE = {
    "a flipped bit": lambda content: content.replace(b"0.001", b"0.003"),
    "half": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
    "another value": lambda content: b"[1, 2]",
    "no text": lambda content: b"\xff\xfe" * 9,
    "not a number": lambda content: content.replace(b"0.001", b"NaN"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_options_are_named_or_restored(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_options(tmp_path, OPTIONS)
    path = tmp_path / OPTIONS_FILE
    assert recorded_options(tmp_path) == OPTIONS
    intact = path.read_bytes()
    path.write_bytes(DAMAGE[kind](intact))
    with pytest.raises(CheckpointError, match=rf"{path}.*records the settings of the run"):
        recorded_options(tmp_path)
    path.write_bytes(intact)
    Checkpoints(tmp_path, 2).save(3, {"config.json": b"{}"})
    path.write_bytes(DAMAGE[kind](intact))
    assert recorded_options(tmp_path) == OPTIONS
    assert "restored from" in capsys.readouterr().err


def test_missing_options_are_restored(tmp_path: Path) -> None:
    assert recorded_options(tmp_path) is None
    write_options(tmp_path, OPTIONS)
    Checkpoints(tmp_path, 2).save(3, {"config.json": b"{}"})
    (tmp_path / OPTIONS_FILE).unlink()
    assert checked_run(str(tmp_path)) == tmp_path
    assert recorded_options(tmp_path) == OPTIONS


def test_runs_without_adapters_resume_whatever_settings_of_adapters_they_recorded(tmp_path: Path) -> None:
    """Earlier versions accepted and recorded `--lora-alpha 8` without a rank; now the option is refused."""
    given = {**OPTIONS, "lora_rank": 0, "lora_alpha": 16.0, "lora_targets": ["q_proj"]}
    earlier = {**given, "lora_alpha": 8.0, "lora_targets": ["up_proj"]}
    write_options(tmp_path, earlier)
    check_resumable(tmp_path, given)
    write_options(tmp_path, {**earlier, "lora_rank": 2})
    with pytest.raises(ConfigMismatchError, match=r"lora_alpha: recorded 8\.0, given 16\.0"):
        check_resumable(tmp_path, {**given, "lora_rank": 2})


def test_runs_of_earlier_versions_are_deterministic(tmp_path: Path) -> None:
    write_options(tmp_path, OPTIONS)
    check_resumable(tmp_path, {**OPTIONS, "deterministic": True})
    with pytest.raises(ConfigMismatchError, match="deterministic: recorded true, given false"):
        check_resumable(tmp_path, {**OPTIONS, "deterministic": False})


def test_a_started_run_keeps_a_warmup_longer_than_its_steps(tmp_path: Path) -> None:
    """Earlier versions accepted it; a new run with it is refused."""
    with pytest.raises(UsageError, match="--warmup"):
        SftOptions(("codes",), str(tmp_path), steps=10, warmup=20)
    write_options(tmp_path, OPTIONS)
    assert SftOptions(("codes",), str(tmp_path), steps=10, warmup=20).warmup_steps == 20
    with pytest.raises(UsageError, match="--warmup"):
        SftOptions(("codes",), str(tmp_path), steps=10, warmup=-1)
