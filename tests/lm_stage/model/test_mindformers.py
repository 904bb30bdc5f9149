"""Checkpoints under MindFormers' names: the names, the same bytes, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_stage.model.checksums import check_files
from lm_stage.model.mindformers import MAP_FILE, MODEL_FILE, from_mindformers, mindformers_name, to_mindformers
from lm_stage.model.weights import model_fingerprint, read_weights
from shared.errors import CheckpointError, UsageError
from tests.support.model_bases import VISION_TENSOR, conditional_base, published_base

# As MindFormers' documentation of `LlamaForCausalLM` maps them.
NAMES = {
    "model.embed_tokens.weight": "model.tok_embeddings.embedding_weight",
    "model.layers.31.input_layernorm.weight": "model.layers.31.attention_norm.weight",
    "model.layers.0.self_attn.q_proj.weight": "model.layers.0.attention.wq.weight",
    "model.layers.0.self_attn.k_proj.weight": "model.layers.0.attention.wk.weight",
    "model.layers.0.self_attn.v_proj.weight": "model.layers.0.attention.wv.weight",
    "model.layers.0.self_attn.o_proj.weight": "model.layers.0.attention.wo.weight",
    "model.layers.2.post_attention_layernorm.weight": "model.layers.2.ffn_norm.weight",
    "model.layers.2.mlp.gate_proj.weight": "model.layers.2.feed_forward.w1.weight",
    "model.layers.2.mlp.down_proj.weight": "model.layers.2.feed_forward.w2.weight",
    "model.layers.2.mlp.up_proj.weight": "model.layers.2.feed_forward.w3.weight",
    "model.norm.weight": "model.norm_out.weight",
    "lm_head.weight": "lm_head.weight",
}


def test_names() -> None:
    assert {name: mindformers_name(name) for name in NAMES} == NAMES


def test_the_weights_stay_and_only_names_change(golden_lm: Path, tmp_path: Path) -> None:
    import mindspore as ms

    written, stored = to_mindformers(golden_lm, tmp_path / "out"), read_weights(golden_lm)
    assert {path.name for path in written.iterdir()} == {MODEL_FILE, MAP_FILE}
    found = load_file(written / MODEL_FILE)
    assert set(found) == {mindformers_name(name) for name in stored}
    assert all(np.array_equal(found[mindformers_name(name)], tensor.float32()) for name, tensor in stored.items())
    assert json.loads((written / MAP_FILE).read_text()) == dict.fromkeys(sorted(found), MODEL_FILE)
    loaded = ms.load_checkpoint(str(written / MODEL_FILE), format="safetensors")
    assert {name: value.shape for name, value in loaded.items()} == {name: one.shape for name, one in found.items()}


def test_norms_of_queries_and_keys_are_refused(golden_emu35: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="norms of queries and keys, which MindFormers"):
        to_mindformers(golden_emu35, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["small", "published", "conditional"])
def test_there_and_back(small_lm: Path, tmp_path: Path, kind: str) -> None:
    bases = {"small": lambda model, _: model, "published": published_base, "conditional": conditional_base}
    base = bases[kind](small_lm, tmp_path / "base")
    weights = to_mindformers(base, tmp_path / "weights")
    back = from_mindformers(weights, base, tmp_path / "back")
    assert model_fingerprint(back) == model_fingerprint(base)
    check_files(back)
    found = load_file(back / MODEL_FILE)
    assert (VISION_TENSOR in found) is (kind == "conditional")
    assert (back / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_trained_weights_come_without_the_state_of_the_optimizer(small_lm: Path, tmp_path: Path) -> None:
    weights = to_mindformers(small_lm, tmp_path / "weights")
    trained = {name: value + 1 for name, value in load_file(weights / MODEL_FILE).items()}
    moments = {f"adam_m.{name}": value for name, value in trained.items()}
    parts = tmp_path / "parts"
    parts.mkdir()
    names = sorted(trained)
    save_file({name: trained[name] for name in names[:3]}, parts / "part0.safetensors")
    rest = {name: trained[name] for name in names[3:]}
    save_file({**rest, **moments, "global_step": np.array([7])}, parts / "part1.safetensors")
    back = read_weights(from_mindformers(parts, small_lm, tmp_path / "back"))
    before = read_weights(small_lm)
    assert set(back) == set(before)
    assert all(np.array_equal(back[name].float32(), before[name].float32() + 1) for name in before)


def test_weights_that_do_not_fit_are_refused(small_lm: Path, tmp_path: Path) -> None:
    weights = to_mindformers(small_lm, tmp_path / "weights")
    tensors = load_file(weights / MODEL_FILE)
    query = "model.layers.0.attention.wq.weight"
    cases = {
        "missing model.layers.0.attention.wq.weight; extra model.layers.0.attention.w_qkv.weight": {
            **{name: value for name, value in tensors.items() if name != query},
            "model.layers.0.attention.w_qkv.weight": tensors[query],
        },
        f"{query}: expected shape": {**tensors, query: tensors[query][:-1]},
    }
    for number, (message, content) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(content, folder / MODEL_FILE)
        with pytest.raises(CheckpointError, match=message):
            from_mindformers(folder, small_lm, tmp_path / "back")
    with pytest.raises(CheckpointError, match=r"expected a folder with the \.safetensors files"):
        from_mindformers(tmp_path, small_lm, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_nothing_is_replaced(small_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt", "s3://bucket/out"):
        with pytest.raises(UsageError, match="expected a local directory that is empty or does not exist yet"):
            to_mindformers(small_lm, out)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
