"""A training run that resumes exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import vq_stage.training.job
from shared.errors import CheckpointError, ConfigMismatchError, UsageError
from shared.jobs.file_locks import RUN_LOCK, try_lock
from tests.support.pictures import save_picture
from tests.support.vision_models import TINY_VQ, step_that_changes_nothing
from vq_stage import VisionTokenizer
from vq_stage.training.job import train_vq
from vq_stage.training.options import TrainVQOptions

CONFIG = replace(TINY_VQ, channel_multiplier=(1, 1))  # 2×2 pixels per code


def options(tmp_path: Path, **changes: Any) -> TrainVQOptions:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    for index in range(4):
        save_picture(tmp_path / "pictures" / f"{index}.png", index, 48, 48)
    values = {"steps": 6, "crop": 32, "batch": 4, "clip_share": 0.0, "save_every": 2, "warmup": 2, "reader_threads": 1}
    values |= {"quantize_from": 1, "quantize_fully_from": 3, "config": str(config), "out": str(tmp_path / "out")}
    return TrainVQOptions(source=str(tmp_path / "pictures"), **{**values, **changes})


def test_a_run_stopped_at_a_checkpoint_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files on disk at the second checkpoint are those that a run killed there leaves."""
    save = vq_stage.training.job.save_rows
    saves = []

    def copy_at_the_second_checkpoint(*arguments: Any) -> None:
        saves.append(1)
        if len(saves) == 2:
            shutil.copytree(tmp_path / "whole", tmp_path / "broken")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("vq_stage.training.job.save_rows", copy_at_the_second_checkpoint)
        whole = train_vq(options(tmp_path, out=str(tmp_path / "whole")))
    assert len(saves) == 3
    broken = train_vq(options(tmp_path, out=str(tmp_path / "broken")))
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (broken / "train_log.jsonl").read_text().splitlines()]
    assert steps == list(range(6))
    assert (broken / "samples" / "step-0000006.png").is_file()
    codes = VisionTokenizer.from_pretrained(broken).encode_images(np.zeros((1, 4, 4, 3), np.uint8))
    assert codes.shape == (1, 2, 2)
    with pytest.raises(ConfigMismatchError, match=r"batch: recorded 4, given 2"):
        train_vq(options(tmp_path, out=str(broken), batch=2))
    changed = options(tmp_path, out=str(broken))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG.to_dict(), "codebook_size": 8}))
    with pytest.raises(CheckpointError, match=r"quantize\.embedding.*expected shape \(8, 4\).*--config changed"):
        train_vq(changed)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    chosen = options(tmp_path)
    lock = try_lock(tmp_path / "out" / RUN_LOCK)
    assert lock is not None
    with pytest.raises(UsageError, match="another process trains here"):
        train_vq(chosen)
    lock.release()
    assert list((tmp_path / "out").iterdir()) == []


def test_fine_tuning_starts_from_the_given_tokenizer(
    tmp_path: Path, golden_vq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that changes nothing stands in for the real one, which takes half a minute to compile."""
    monkeypatch.setattr("vq_stage.training.job._run_step", step_that_changes_nothing)
    chosen = options(tmp_path, config=None, init_from=str(golden_vq), steps=1)
    tuned = load_file(train_vq(chosen) / "model.safetensors")
    start = load_file(golden_vq / "model.safetensors")
    for name in ("encoder.conv_in.weight", "decoder.conv_out.weight", "quantize.embedding.weight"):
        np.testing.assert_array_equal(tuned[name], start[name])
