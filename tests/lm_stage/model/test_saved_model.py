"""Saved models have the config, the names of weights and the files with which others load them by their usual calls."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_stage import LanguageModel
from lm_stage.model.config import DecoderConfig, read_config, read_layout
from lm_stage.model.model_directory import model_path
from lm_stage.model.options import EMBEDDED_MODEL
from lm_stage.model.weights import model_fingerprint, read_weights
from shared.errors import CheckpointError
from shared.storage.checked_json import dump_checked_json
from tests.support.model_bases import VISION_TENSOR, conditional_base, published_base, save_again
from tests.support.models import write_language_model

IDS = [3, 9, 20, 33, 7]
Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return a function that saves a base again, as a run without steps would."""

    def save(base: Path, dtype: str = "float32") -> Path:
        return save_again(base, tmp_path / "model", dtype)

    return save


def special_ids(config: object) -> list[int]:
    return [getattr(config, f"{role}_token_id") for role in ("pad", "bos", "eos")]


def test_our_models_load_as_causal_models(small_lm: Path, saved: Saved) -> None:
    transformers = pytest.importorskip("transformers")
    model = saved(small_lm)
    layout, shape = read_layout(small_lm), DecoderConfig.from_directory(small_lm)
    config = transformers.AutoConfig.from_pretrained(model)
    assert type(config).__name__ == "Emu3Config"
    for text in (config.get_text_config(), transformers.Emu3TextConfig.from_pretrained(model)):
        assert special_ids(text) == [layout.pad, layout.bos, layout.eos]
        assert (text.vocab_size, text.rope_theta, text.hidden_size) == (shape.vocab_size, shape.rope_theta, 32)
    assert set(load_file(model / "model.safetensors")) == set(load_file(small_lm / "model.safetensors"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert tokenizer.encode("a red apple") == LanguageModel.from_pretrained(model).encode_text("a red apple")
    assert special_ids(tokenizer) == [layout.pad, layout.bos, layout.eos]
    assert (DecoderConfig.from_directory(model), read_layout(model)) == (shape, layout)


def test_the_embedded_model_loads_elsewhere() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(EMBEDDED_MODEL).get_text_config()
    layout = read_layout(EMBEDDED_MODEL)
    assert special_ids(config) == [layout.pad, layout.bos, layout.eos]
    assert transformers.AutoTokenizer.from_pretrained(EMBEDDED_MODEL).eos_token_id == layout.eos


def test_a_conditional_base_keeps_its_class_names_and_vision_tokenizer(
    small_lm: Path, saved: Saved, tmp_path: Path
) -> None:
    base = conditional_base(small_lm, tmp_path / "base")
    model = saved(base)
    config = read_config(model)
    assert config["architectures"] == ["Emu3ForConditionalGeneration"]
    assert config["vq_config"] == read_config(base)["vq_config"]
    before, after = load_file(base / "model.safetensors"), load_file(model / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert VISION_TENSOR in after
    expected = LanguageModel.from_pretrained(small_lm).logits(IDS)
    np.testing.assert_array_equal(LanguageModel.from_pretrained(model).logits(IDS), expected)


def test_a_published_base_keeps_its_code(small_lm: Path, saved: Saved, tmp_path: Path) -> None:
    base = published_base(small_lm, tmp_path / "base")
    model = saved(base)
    python = {path.name for path in model.glob("*.py")}
    assert python == {"configuration_emu3.py", "modeling_emu3.py", "shape_emu3.py", "tokenization_emu3.py"}
    config = read_config(model)
    assert config["auto_map"] == read_config(base)["auto_map"]
    assert (config["model_type"], config["torch_dtype"]) == ("Emu3", "float32")
    assert json.loads((model / "tokenizer_config.json").read_text())["auto_map"]
    (base / "modeling_emu3.py").unlink()
    assert "auto_map" not in read_config(saved(base)), "code that is not there cannot be named"


def test_code_outside_the_directory_is_not_copied(small_lm: Path, saved: Saved, tmp_path: Path) -> None:
    base = published_base(small_lm, tmp_path / "base")
    (tmp_path / "outside.py").write_text("")
    (base / "sub").mkdir()
    (base / "sub" / "modeling.py").write_text("")
    for module in (f"{tmp_path}/outside", "sub/modeling"):
        config = {**read_config(base), "auto_map": {"AutoModel": f"{module}.Emu3"}}
        (base / "config.json").write_text(json.dumps(config))
        model = saved(base)
        assert "auto_map" not in read_config(model)
        assert {path.name for path in model.rglob("*.py")} == {"tokenization_emu3.py"}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)])
def test_a_model_is_saved_in_its_number_type(small_lm: Path, saved: Saved, dtype: str, tolerance: float) -> None:
    model = saved(small_lm, dtype)
    stored, original = read_weights(model), read_weights(small_lm)
    assert {tensor.dtype for tensor in stored.values()} == {{"float32": "F32", "float16": "F16"}.get(dtype, "BF16")}
    for name, tensor in stored.items():
        np.testing.assert_allclose(tensor.float32(), original[name].float32(), rtol=tolerance, atol=tolerance)
    assert (model_fingerprint(model) == model_fingerprint(small_lm)) == (dtype == "float32")
    assert read_config(model)["torch_dtype"] == dtype


def test_ids_outside_the_vocabulary_are_replaced(small_lm: Path, saved: Saved, tmp_path: Path) -> None:
    base = conditional_base(small_lm, tmp_path / "base")
    config = read_config(base)
    config["text_config"] |= {"eos_token_id": 151850, "pad_token_id": None, "bos_token_id": [3, 4]}
    (base / "config.json").write_text(json.dumps(config))
    layout, text = read_layout(base), read_config(saved(base))["text_config"]
    assert [text[f"{role}_token_id"] for role in ("pad", "bos", "eos")] == [layout.pad, [3, 4], layout.eos]


@pytest.mark.parametrize("base", ["own", "conditional"])
def test_logits_in_transformers(base: str, small_lm: Path, saved: Saved, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="transformers computes with torch, which the tests do not require")
    import transformers

    model = saved(small_lm if base == "own" else conditional_base(small_lm, tmp_path / "base"))
    cls = transformers.AutoModelForCausalLM if base == "own" else transformers.AutoModelForImageTextToText
    with torch.no_grad():
        logits = cls.from_pretrained(model).eval()(input_ids=torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(logits, LanguageModel.from_pretrained(model).logits(IDS), atol=1e-4)


@pytest.mark.parametrize(("model_type", "class_name"), [("qwen3", "Qwen3ForCausalLM"), ("Emu3", "Emu3ForCausalLM")])
def test_a_base_with_norms_of_queries_and_keys_loads_as_qwen3(
    model_type: str, class_name: str, saved: Saved, tmp_path: Path
) -> None:
    """Its config stays as it is. Emu3.5's has Emu3's class, whose implementation in transformers has no norms."""
    transformers = pytest.importorskip("transformers")
    base = write_language_model(tmp_path / "base", head_dim=16, qk_norm=True)
    described = {**read_config(base), "model_type": model_type, "architectures": [class_name]}
    (base / "config.json").write_text(json.dumps(described))
    model = saved(base)
    config, layout = read_config(model), read_layout(base)
    assert [config[key] for key in ("model_type", "architectures", "head_dim")] == [model_type, [class_name], 16]
    assert DecoderConfig.from_directory(model) == DecoderConfig.from_directory(base)
    assert set(load_file(model / "model.safetensors")) == set(load_file(base / "model.safetensors"))
    loaded = transformers.Qwen3Config.from_pretrained(model)
    assert (loaded.head_dim, loaded.hidden_size, special_ids(loaded)) == (16, 32, [layout.pad, layout.bos, layout.eos])
    if model_type == "qwen3":
        assert type(transformers.AutoConfig.from_pretrained(model)) is transformers.Qwen3Config


def test_the_size_of_heads_is_stated_where_qwen3_has_another_default(saved: Saved, tmp_path: Path) -> None:
    base = write_language_model(tmp_path / "base", qk_norm=True)
    described = {key: value for key, value in read_config(base).items() if key != "head_dim"}
    (base / "config.json").write_text(json.dumps(described))
    assert read_config(saved(base))["head_dim"] == 8


def test_logits_with_norms_in_transformers(saved: Saved, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="transformers computes with torch, which the tests do not require")
    import transformers

    model = saved(write_language_model(tmp_path / "base", head_dim=16, qk_norm=True), "bfloat16")
    with torch.no_grad():
        qwen3 = transformers.AutoModelForCausalLM.from_pretrained(model, torch_dtype=torch.float32).eval()
        logits = qwen3(input_ids=torch.tensor([IDS])).logits[0].numpy()
    assert type(qwen3).__name__ == "Qwen3ForCausalLM"
    np.testing.assert_allclose(logits, LanguageModel.from_pretrained(model).logits(IDS), atol=1e-4)


def test_every_file_is_verified_when_the_model_is_used(small_lm: Path, saved: Saved) -> None:
    model = saved(small_lm)
    for path in sorted(model.iterdir()):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        intact = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{path.name}.*damaged"):
            model_path(model)
        path.write_bytes(intact)
    for digest in (5, None, ["ab"]):
        (model / "checksums.json").write_bytes(dump_checked_json({"sha256": {"config.json": digest}}))
        with pytest.raises(CheckpointError, match="expected the SHA-256 of files beside it"):
            model_path(model)
    os.remove(model / "checksums.json")
    assert model_path(model) == model
