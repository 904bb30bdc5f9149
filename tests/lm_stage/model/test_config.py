"""Configurations in both published namings, and those that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lm_stage.model.config import DecoderConfig, read_config, read_layout
from shared.errors import CheckpointError


@pytest.fixture
def raw(golden_lm: Path) -> dict[str, Any]:
    return json.loads((golden_lm / "config.json").read_text())


def test_nested_keys_are_read(raw: dict[str, Any]) -> None:
    assert DecoderConfig.from_dict({"text_config": raw}) == DecoderConfig.from_dict(raw)


def test_a_missing_key_is_named(raw: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="hidden_size"):
        DecoderConfig.from_dict({name: value for name, value in raw.items() if name != "hidden_size"})


def test_rope_parameters_of_transformers_5_are_read(raw: dict[str, Any]) -> None:
    described = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    without = {name: value for name, value in raw.items() if name != "rope_theta"}
    assert DecoderConfig.from_dict({**without, **described}).rope_theta == 5e5
    assert DecoderConfig.from_dict({**without, "rope_theta": 5e5, **described}).rope_theta == 5e5
    assert DecoderConfig.from_dict({"text_config": {**without, **described}}).rope_theta == 5e5


def test_tied_embeddings_of_the_decoder_override_those_at_the_top(raw: dict[str, Any]) -> None:
    """`Emu3Config().to_dict()` of transformers 4 states true at the top, the default of all models, for untied ones."""
    without = {name: value for name, value in raw.items() if name != "tie_word_embeddings"}
    for top, own, expected in ((True, False, False), (False, True, True), (True, None, True), (None, None, False)):
        whole = {"tie_word_embeddings": top, "text_config": {**without, "tie_word_embeddings": own}}
        assert DecoderConfig.from_dict(whole).tie_word_embeddings is expected


REFUSED = [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type 'linear'"),
    ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.rope_type 'llama3'"),
    ({"rope_scaling": "yarn"}, "rope_scaling 'yarn': expected an object"),
    ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "rope_theta: expected one value"),
    ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", "factor": 4}}, "rope_parameters.rope_type 'yarn'"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "rope_parameters.full_attention"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    ({"partial_rotary_factor": 0.25}, "partial_rotary_factor 0.25: expected 1"),
    ({"attention_bias": True}, "attention_bias True: expected False"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"head_dim": 15}, "head_dim 15: expected an even integer up to 16384"),
    ({"head_dim": "128"}, "head_dim '128': expected an even integer"),
    ({"head_dim": -32}, "head_dim -32: expected an even integer"),
    ({"qk_norm": "yes"}, "qk_norm 'yes': expected False or True"),
    ({"qk_layernorm": True}, "qk_layernorm True: expected False"),
    ({"sliding_window": 128}, "sliding_window 128"),
    ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ({"logits_scaling": 8.0}, "logits_scaling 8.0: expected 1"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0: expected null"),
    ({"num_local_experts": 8}, "num_local_experts 8"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"attention_temperature": 2.0}, "attention_temperature 2.0: not known"),
    ({"model_type": "gemma2"}, "model_type 'gemma2'"),
    ({"model_type": "Emu3VisionVQ"}, "this is a vision tokenizer"),
    ({"model_type": "llama", "rope_theta": None}, "missing rope_theta"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes': expected true or false"),
    ({"text_config": [1]}, "text_config: expected an object"),
    ({"num_hidden_layers": 10**7}, "num_hidden_layers 10000000: expected an integer from 1 to 1024"),
    ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
    ({"num_hidden_layers": 2.5}, "num_hidden_layers 2.5"),
    ({"hidden_size": -128}, "hidden_size -128"),
    ({"hidden_size": True}, "hidden_size True"),
    ({"vocab_size": 10**18}, "vocab_size 1000000000000000000"),
    ({"num_attention_heads": 3}, "expected an even multiple of num_attention_heads, or head_dim"),
    ({"num_key_value_heads": 3}, "expected a multiple of num_key_value_heads"),
    ({"rope_theta": "x"}, "rope_theta 'x': expected a number above 0"),
    ({"rope_theta": math.nan}, "rope_theta nan"),
    ({"rope_theta": 0}, "rope_theta 0"),
    ({"rope_theta": 10**60}, "rope_theta 1000"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps -1e-05"),
    ({"rms_norm_eps": math.inf}, "rms_norm_eps inf"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_the_decoder_does_not_compute_is_refused(
    changes: dict[str, Any], message: str, raw: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError) as refused:
        DecoderConfig.from_dict({**raw, **changes}, "model/config.json")
    assert str(refused.value).startswith("model/config.json: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": None, "sliding_window": None, "head_dim": 32, "hidden_act": "silu"},
        {"rope_scaling": {"rope_type": "default"}},
        {"layer_types": ["full_attention"] * 3, "partial_rotary_factor": 1.0, "num_experts": 0},
        {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 3},
        {"sliding_window": 1024, "unsloth_version": "2026.1", "training_note": "mine"},
        {"sliding_window": 0},
        {"attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": False, "pretraining_tp": 1},
        {"_attn_implementation_autoset": True, "_flash_attn_2_enabled": True, "use_flash_attn": True},
    ],
)
def test_keys_that_change_nothing_are_accepted(changes: dict[str, Any], raw: dict[str, Any]) -> None:
    assert DecoderConfig.from_dict({**raw, **changes}) == DecoderConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("changes", "stated"),
    [
        ({}, False),
        ({"model_type": "qwen3"}, True),
        ({"model_type": "llama"}, False),
        ({"qk_norm": True}, True),
        ({"model_type": "qwen3", "use_qk_norm": False}, False),
    ],
)
def test_norms_of_queries_and_keys_are_stated(changes: dict[str, Any], stated: bool, raw: dict[str, Any]) -> None:
    assert DecoderConfig.from_dict({**raw, **changes}).qk_norm is stated
    assert DecoderConfig.from_dict({"text_config": {**raw, **changes}}).qk_norm is stated


def test_heads_have_their_own_size(raw: dict[str, Any]) -> None:
    config = DecoderConfig.from_dict({**raw, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20})
    assert (config.head_dim, config.to_dict()["head_dim"]) == (20, 20)
    assert DecoderConfig.from_dict(config.to_dict()) == config
    assert "head_dim" not in DecoderConfig.from_dict(raw).to_dict(), "fingerprints of models are computed from it"


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"{", b"[]", b"", b"\xff\xfe\x00", b'{"vocab_size": ' + b"9" * 5000 + b"}"]
)
def test_malformed_files_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=str(tmp_path / "config.json")):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_layout": [1]},
        {"token_layout": {"pad": 1}},
        {"token_layout": {"pad": "x"}},
        {"vocabulary_map": True},
        {"vocabulary_map": {"<|image end|>": "x"}},
        {f"{role}_token_id": "x" for role in ("pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof")},
        {},
    ],
)
def test_a_malformed_token_layout_is_named(changes: dict[str, Any], raw: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**raw, **changes}))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_layout(tmp_path)
