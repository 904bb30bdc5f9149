"""Every published naming and storage format gives the same decoder; tensors that do not match are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_stage import LanguageModel
from lm_stage.model.weights import hugging_face_name, model_fingerprint
from shared.errors import CheckpointError


@pytest.fixture
def directory(golden_lm: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(golden_lm, copy)
    return copy


def logits(directory: Path) -> np.ndarray:
    layout = json.loads((directory / "expected.json").read_text())["layout"]
    return LanguageModel.from_pretrained(directory, layout=layout).logits([303, 108, 109])


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
    expected, fingerprint = logits(directory), model_fingerprint(directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"model-{shard}.safetensors"
        named = {f"text_model.{name}": tensors[name] for name in part}
        save_file({**named, "model.vqmodel.conv.weight": np.zeros(3, np.float32)} if shard else named, directory / file)
        weight_map |= {name: file for name in named}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    np.testing.assert_array_equal(logits(directory), expected)
    assert model_fingerprint(directory) == fingerprint


def test_half_precision_weights_load(directory: Path) -> None:
    expected = logits(directory)
    tensors = load_file(directory / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in tensors.items()}, directory / "model.safetensors")
    np.testing.assert_allclose(logits(directory), expected, atol=0.05)


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
        logits(directory)
