"""Every published naming and storage format gives the same decoder; tensors that do not match are named."""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_stage import LanguageModel
from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import check_weights, hugging_face_name, model_fingerprint, parameter_shapes
from shared.errors import CheckpointError


@pytest.fixture
def directory(golden_lm: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(golden_lm, copy)
    return copy


def loaded(directory: Path) -> LanguageModel:
    layout = json.loads((directory / "expected.json").read_text())["layout"]
    return LanguageModel.from_pretrained(directory, layout=layout)


def logits(directory: Path) -> np.ndarray:
    return loaded(directory).logits([303, 108, 109])


def assert_weights(directory: Path, expected: dict[str, np.ndarray]) -> None:
    """Check all weights of a loaded decoder."""
    found = {name: p.asnumpy() for name, p in loaded(directory).backend.decoder.parameters_and_names()}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("text_model.model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.text_model.norm.weight", "model.norm.weight"),
        ("text_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_published_namings(name: str, expected: str) -> None:
    assert hugging_face_name(name) == expected


def test_sharded_and_renamed_checkpoints_load_alike(directory: Path) -> None:
    tensors, fingerprint = load_file(directory / "model.safetensors"), model_fingerprint(directory)
    (directory / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"model-{shard}.safetensors"
        named = {f"text_model.{name}": tensors[name] for name in part}
        save_file({**named, "model.vqmodel.conv.weight": np.zeros(3, np.float32)} if shard else named, directory / file)
        weight_map |= {name: file for name in named}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_weights(directory, tensors)
    assert model_fingerprint(directory) == fingerprint


def test_published_sizes_of_emu35() -> None:
    """By shapes only: 34.1 billion parameters. The sizes are reported ones, not verified on the published files."""
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "qk_norm": True}
    sizes = {"vocab_size": 282_926, "hidden_size": 5120, "intermediate_size": 25_600, "num_hidden_layers": 64}
    shapes = parameter_shapes(DecoderConfig(**sizes, **heads, max_position_embeddings=32_768))
    assert len(shapes) == 64 * 11 + 3
    assert shapes["model.layers.63.self_attn.q_proj.weight"] == (8192, 5120)
    assert shapes["model.layers.63.self_attn.k_proj.weight"] == (1024, 5120)
    assert shapes["model.layers.63.self_attn.o_proj.weight"] == (5120, 8192)
    assert shapes["model.layers.63.self_attn.q_norm.weight"] == (128,)
    assert round(sum(map(prod, shapes.values())) / 1e9, 1) == 34.1


NORM = "model.layers.0.self_attn.q_norm.weight"
CONTRADICTIONS: list[tuple[dict[str, Any], bool, str]] = [
    (
        {"head_dim": None},
        True,
        r"head_dim 24 \(where it is missing, .*96 / 4\), but .*q_proj.*\(128, 96\).*4 heads of 32",
    ),
    ({"head_dim": 64}, True, r"head_dim 64 .*state head_dim 32"),
    ({"model_type": "llama"}, True, f"config.json: model_type 'llama' means no norms .* weights have {NORM}"),
    ({"qk_norm": False}, True, f"config.json: qk_norm False means no norms .* weights have {NORM}"),
    ({"model_type": "qwen3"}, False, "config.json: model_type 'qwen3' means norms .* have no self_attn.q_norm.weight"),
]


@pytest.mark.parametrize(("changes", "has_norms", "message"), CONTRADICTIONS)
def test_configs_that_contradict_the_weights_are_refused(
    changes: dict[str, Any], has_norms: bool, message: str, golden_emu35: Path, tmp_path: Path
) -> None:
    tensors = load_file(golden_emu35 / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if has_norms or "_norm." not in name}
    save_file(kept, tmp_path / "model.safetensors")
    config = json.loads((golden_emu35 / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        check_weights(tmp_path, DecoderConfig.from_directory(tmp_path))


def test_norms_of_some_layers_only_are_refused(golden_emu35: Path, tmp_path: Path) -> None:
    tensors = load_file(golden_emu35 / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(golden_emu35 / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"missing model\.layers\.1\.self_attn\.k_norm\.weight"):
        check_weights(tmp_path, DecoderConfig.from_directory(tmp_path))


def test_half_precision_weights_load(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    half = {name: value.astype(np.float16) for name, value in tensors.items()}
    save_file(half, directory / "model.safetensors")
    assert_weights(directory, half)


def test_tied_embeddings(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    tied = logits(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(tied, logits(directory), atol=1e-6)


def test_tensors_that_do_not_match_are_named(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] = np.ones(7, np.float32)
    tensors["stray"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj.*stray.*norm\.weight.*\(7,\)"):
        loaded(directory)
