"""Configurations of both namings, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import CheckpointError
from vq_stage.model.config import VQConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": 20}, "multiple of 32"),
        ({"double_z": True}, "double latents"),
        ({"codebook_size": 70000}, "65536"),
        ({"temporal_downsample_factor": 2}, "temporal_downsample_factor"),
    ],
)
def test_unsupported_configs_are_refused(golden_vq: Path, change: dict[str, object], message: str) -> None:
    raw = json.loads((golden_vq / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        VQConfig.from_dict({**raw, **change})


def test_a_missing_config_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="missing ch_mult"):
        VQConfig.from_dict({"ch": 32, "num_res_blocks": 1})


def test_hugging_face_config_round_trip(golden_vq: Path) -> None:
    config = VQConfig.from_directory(golden_vq)
    assert VQConfig.from_dict(config.to_dict()) == config


def test_an_unreadable_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a vision tokenizer config"):
        VQConfig.from_directory(tmp_path)
    with pytest.raises(CheckpointError, match=r"no-such\.json: expected a vision tokenizer config"):
        VQConfig.from_file(tmp_path / "no-such.json")
