"""Checkpoints of both namings, any float dtype, single or sharded; and those that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shared.errors import CheckpointError
from shared.storage.safetensors_reader import read_checkpoint
from vq_stage import VisionTokenizer
from vq_stage.model.config import VQConfig
from vq_stage.model.weights import codec_fingerprint, hugging_face_name, read_weights

Weights = dict[str, np.ndarray]
Change = Callable[[Weights], Weights]


def rewrite(golden_vq: Path, out: Path, change: Change) -> Path:
    """Write a copy of the golden checkpoint with changed tensors."""
    out.mkdir()
    shutil.copy(golden_vq / "config.json", out)
    save_file(change(load_file(golden_vq / "model.safetensors")), out / "model.safetensors")
    return out


def as_hugging_face(weights: Weights) -> Weights:
    return {
        f"vqmodel.{hugging_face_name(name)}": value[:, :, 0, 0] if "_proj.weight" in hugging_face_name(name) else value
        for name, value in weights.items()
    }


def test_hugging_face_naming_loads_to_the_same_codes(
    golden_vq: Path, golden_vq_expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    directory = rewrite(golden_vq, tmp_path / "hf", as_hugging_face)
    config = VQConfig.from_directory(golden_vq).to_dict()
    (directory / "config.json").write_text(json.dumps(config))
    codes = VisionTokenizer.from_pretrained(directory).encode_images(golden_vq_expected["images"])
    np.testing.assert_array_equal(codes, golden_vq_expected["image_codes"])
    assert codec_fingerprint(directory) == codec_fingerprint(golden_vq), "the same weights under another naming"


def test_names_cover_the_published_table(golden_vq: Path) -> None:
    renamed = set(read_weights(golden_vq))
    assert "encoder.down_block.down.3.attn_norms.0.weight" in renamed
    assert "decoder.middle_block.attn_1.out_proj.bias" in renamed
    assert not [name for name in renamed if ".mid." in name or ".q." in name or "num_batches" in name]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_exactly(golden_vq: Path, tmp_path: Path, dtype: type) -> None:
    change = lambda weights: {n: v.astype(dtype) if v.dtype == np.float32 else v for n, v in weights.items()}  # noqa: E731
    stored = read_checkpoint(rewrite(golden_vq, tmp_path / "half", change))
    for name, value in load_file(golden_vq / "model.safetensors").items():
        np.testing.assert_array_equal(stored[name].float32(), value.astype(dtype).astype(np.float32))


def test_shards_equal_the_single_file(golden_vq: Path, tmp_path: Path) -> None:
    weights = load_file(golden_vq / "model.safetensors")
    directory = tmp_path / "sharded"
    directory.mkdir()
    shutil.copy(golden_vq / "config.json", directory)
    names, weight_map = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert codec_fingerprint(directory) == codec_fingerprint(golden_vq)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002"):
        read_checkpoint(directory)


def without(name: str) -> Change:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def replaced(name: str, value: np.ndarray) -> Change:
    return lambda weights: {**weights, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder.conv_in.bias"), r"missing encoder\.conv_in\.bias"),
        (replaced("encoder.extra", np.zeros(3, np.float32)), r"extra encoder\.extra"),
        (replaced("encoder.conv_in.bias", np.zeros(31, np.float32)), r"encoder.conv_in.bias: expected shape \(32,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(golden_vq: Path, tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        VisionTokenizer.from_pretrained(rewrite(golden_vq, tmp_path / "bad", change))


@pytest.mark.parametrize("kept", [0, 5, 100, 5000, -1])
def test_a_file_cut_short_is_refused(golden_vq: Path, tmp_path: Path, kept: int) -> None:
    content = (golden_vq / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"ch": 1024}, {"ch_mult": [1, 1]}, {"num_res_blocks": 60}, {"z_channels": 4000}, {"embed_dim": 4096}],
    ids=str,
)
def test_a_config_that_does_not_fit_is_refused_before_the_network_is_built(
    golden_vq: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    raw = json.loads((golden_vq / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, **change}))
    shutil.copy(golden_vq / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json does not fit the weights"):
        codec_fingerprint(tmp_path)
