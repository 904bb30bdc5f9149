"""Configurations of IBQ tokenizers: published keys, those of SEED-Voken, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.errors import CheckpointError
from vq_stage.model.ibq_config import IbqConfig

VALID = IbqConfig().to_dict()


def test_published_keys_round_trip(golden_ibq: Path) -> None:
    raw = json.loads((golden_ibq / "config.json").read_text())
    config = IbqConfig.from_dict(raw)
    assert config.to_dict() == raw
    assert IbqConfig.from_dict(VALID) == IbqConfig()
    assert (config.codec.spatial_factor, config.codec.code_dtype) == (4, "uint32")
    assert not config.codec.supports_video


@pytest.mark.parametrize(
    ("resolution", "sides", "levels"), [(256, (16,), (4,)), (256, (16, 32), (3, 4)), (256, (17,), ()), (512, (16,), ())]
)
def test_attention_is_at_the_levels_of_the_listed_sides(
    resolution: int, sides: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    assert IbqConfig(resolution=resolution, attn_resolutions=sides).attention_levels == levels


def test_seed_voken_names_the_codebook_size_differently() -> None:
    """The keys of its YAML files, `ddconfig` and the model's own arguments together."""
    raw = {key: VALID[key] for key in VALID if key not in ("codebook_size", "model_type", "architectures")}
    config = IbqConfig.from_dict({**raw, "ch": 128, "n_embed": 16384, "l2_normalize": False})
    assert (config.base_channels, config.codebook_size, config.codec.code_dtype) == (128, 16384, "uint16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"double_z": True}, r"here: double_z: True is not supported, expected False"),
        ({"l2_normalize": True}, "l2_normalize: True is not supported"),
        ({"cosine_similarity": True}, "cosine_similarity"),
        ({"remap": "used.npy"}, "remap: 'used.npy' is not supported, expected None"),
        ({"temporal_downsample_factor": 4}, "temporal_downsample_factor: 4 is not supported, expected 1"),
        ({"resolution": 250}, "resolution must be a multiple of 16"),
        ({"ch": 20}, "multiple of 32"),
        ({"out_ch": 4}, "in_channels and out_channels must be 3"),
        ({"codebook_size": 0}, "codebook_size: expected an integer from 1"),
        ({"codebook_size": 1 << 25}, "codebook_size: expected an integer from 1 to 16777216"),
    ],
)
def test_unsupported_values_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        IbqConfig.from_dict({**VALID, **change}, "here")


@pytest.mark.parametrize("key", sorted({*VALID} - {"model_type", "architectures", "dropout", "double_z"}))
@pytest.mark.parametrize("value", [10**9, -1, 1.5, True, "64", {}, ["a"]], ids=repr)
def test_absurd_and_missing_values_are_named(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=rf"here: {key}: expected"):
        IbqConfig.from_dict({**VALID, key: value}, "here")
    without = {name: kept for name, kept in VALID.items() if name != key}
    with pytest.raises(CheckpointError, match=f"here: expected a vision tokenizer config, missing {key}"):
        IbqConfig.from_dict(without, "here")
