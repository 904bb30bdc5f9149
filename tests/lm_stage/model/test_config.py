"""Configurations in both published namings, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_stage.model.config import DecoderConfig
from shared.errors import CheckpointError


def test_nested_keys_are_read(golden_lm: Path) -> None:
    raw = json.loads((golden_lm / "config.json").read_text())
    assert DecoderConfig.from_dict({"text_config": raw}) == DecoderConfig.from_dict(raw)


def test_missing_keys_and_features_that_are_not_implemented_are_named(golden_lm: Path) -> None:
    raw = json.loads((golden_lm / "config.json").read_text())
    with pytest.raises(CheckpointError, match="rope_scaling"):
        DecoderConfig.from_dict({**raw, "rope_scaling": {"type": "linear"}})
    with pytest.raises(CheckpointError, match="hidden_size"):
        DecoderConfig.from_dict({name: value for name, value in raw.items() if name != "hidden_size"})
