"""Small language models with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def write_language_model(
    directory: Path, codebook_size: int = 2048, positions: int = 400, roles: Sequence[str] = (), **config: Any
) -> Path:
    """Write a checkpoint directory in the published form, with weights from a fixed seed.

    `roles` are optional roles of control tokens.
    """
    from lm_stage.model.config import DecoderConfig
    from lm_stage.model.weights import parameter_shapes
    from lm_stage.text.training import train_text_tokenizer
    from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint

    directory.mkdir(parents=True)
    vocabulary = train_text_tokenizer(["a red apple", "a green pear"] * 3, 280, codebook_size, roles)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": positions}
    shape = DecoderConfig(vocab_size=vocabulary.vocab_size, **{**sizes, **heads, **config})
    described = {**shape.to_dict(), "token_layout": vocabulary.layout.to_dict(), "image_area": 32 * 32}
    described["codec_fingerprint"] = codec_fingerprint(EMBEDDED_TOKENIZER)
    (directory / "config.json").write_text(json.dumps(described))
    (directory / "tokenizer.json").write_text(vocabulary.tokenizer_json, encoding="utf-8")
    random, tensors = np.random.default_rng(0), {}
    for name, size in parameter_shapes(shape).items():
        tensors[name] = np.ones(size, np.float32) if len(size) == 1 else random.normal(0, 0.3, size).astype(np.float32)
    save_file(tensors, directory / "model.safetensors")
    return directory
