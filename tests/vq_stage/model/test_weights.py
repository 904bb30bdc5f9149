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
from vq_stage.model.families import read_config
from vq_stage.model.tensor_names import hugging_face_name
from vq_stage.model.weights import codec_fingerprint, read_weights

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
    config = read_config(golden_vq).to_dict()
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


def write_ibq(golden_ibq: Path, out: Path, change: Change) -> Path:
    """Write a copy of the golden IBQ checkpoint with changed tensors, in one file."""
    out.mkdir()
    shutil.copy(golden_ibq / "config.json", out)
    weights = {name: value for file in golden_ibq.glob("*.safetensors") for name, value in load_file(file).items()}
    save_file(change(weights), out / "model.safetensors")
    return out


def in_training(weights: Weights) -> Weights:
    """Return what SEED-Voken's training saves: raw weights, the averages, and the tensors of its losses."""
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in weights.items()}
    raw = {name: value + 1 for name, value in weights.items()}
    counters = {"model_ema.decay": np.ones(1, np.float32), "model_ema.num_updates": np.ones(1, np.int32)}
    return {**raw, **averages, **counters, "loss.discriminator.main.0.weight": np.ones((4, 3, 4, 4), np.float32)}


@pytest.mark.parametrize("change", [in_training, lambda weights: weights], ids=["training", "published"])
def test_averages_of_seed_voken_are_the_weights(golden_ibq: Path, tmp_path: Path, change: Change) -> None:
    directory = write_ibq(golden_ibq, tmp_path / "ibq", change)
    assert codec_fingerprint(directory) == codec_fingerprint(golden_ibq)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_an_ibq_tokenizer_in_half_precision_loads(
    golden_ibq: Path, golden_ibq_expected: Weights, tmp_path: Path, dtype: type
) -> None:
    """Rounding the weights changes a part of the codes."""
    change = lambda weights: {name: value.astype(dtype) for name, value in weights.items()}  # noqa: E731
    tokenizer = VisionTokenizer.from_pretrained(write_ibq(golden_ibq, tmp_path / "half", change))
    equal = (tokenizer.encode_images(golden_ibq_expected["images"]) == golden_ibq_expected["codes"]).mean()
    assert equal > (0.95 if dtype is np.float16 else 0.6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("decoder.up.2.attn.1.q.weight"), r"missing decoder\.up_block\.up\.2\.attn\.1\.q_proj\.weight"),
        (replaced("encoder.down.0.attn.0.norm.bias", np.zeros(32, np.float32)), r"extra encoder\.down_block\.down\.0"),
        (replaced("quant_conv.bias", np.zeros(9, np.float32)), r"quant_conv\.bias: expected shape \(8,\), got \(9,\)"),
    ],
)
def test_ibq_weights_that_do_not_fit_are_named(golden_ibq: Path, tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        VisionTokenizer.from_pretrained(write_ibq(golden_ibq, tmp_path / "bad", change))


@pytest.mark.parametrize(
    "change", [{"ch": 1024}, {"ch_mult": [1, 1]}, {"num_res_blocks": 9}, {"codebook_size": 131072}], ids=str
)
def test_an_ibq_config_that_does_not_fit_is_refused(
    golden_ibq: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    directory = write_ibq(golden_ibq, tmp_path / "bad", lambda weights: weights)
    raw = json.loads((golden_ibq / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**raw, **change}))
    with pytest.raises(CheckpointError, match=r"config\.json does not fit the weights"):
        codec_fingerprint(directory)
