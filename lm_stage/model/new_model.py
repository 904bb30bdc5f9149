"""A new small language model with random weights, its vocabulary learned from the captions of a codes dataset."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import parameter_shapes
from lm_stage.text.templates import CHAT, DEFAULT_QUESTION
from lm_stage.text.tokenizer import JSON_FILE, train_text_tokenizer
from shared.dataset.dataset import Dataset
from shared.dataset.readers import RowReader
from shared.errors import UsageError
from shared.storage.atomic import write_directory

TEMPLATE_REPEATS = 50  # so that the words of the templates become tokens of their own


@dataclass(frozen=True, slots=True)
class InitOptions:
    """Shape of the model; the codebook is that of the dataset."""

    dataset: str
    out: str
    text_ids: int = 2000
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    positions: int = 1024
    tied: bool = True
    seed: int = 0


def initialize(options: InitOptions) -> Path:
    """Writes `config.json`, `tokenizer.json` and `model.safetensors`; returns the directory.

    Weights are normal with a standard deviation of 0.02, those that write into the residual stream divided by
    √(2·layers) (GPT-2). Raises UsageError if the directory holds something, or the dataset no caption.
    """
    out = Path(options.out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; give a new directory")
    dataset = Dataset.open(options.dataset)
    rows = RowReader(dataset)
    captions = [text for text in rows.column("text") if text]
    if not captions:
        raise UsageError(f"{options.dataset}: has no caption to learn a vocabulary from")
    codec = dataset.plan().settings.codec
    texts = captions + [CHAT.question_text(DEFAULT_QUESTION)] * TEMPLATE_REPEATS
    vocabulary = train_text_tokenizer(texts, options.text_ids, codec.codebook_size)
    shape = DecoderConfig(
        vocab_size=vocabulary.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.positions,
        rope_theta=10_000.0,
        tie_word_embeddings=options.tied,
    )
    (_, height, width), _ = Counter(map(tuple, rows.shapes_THW().tolist())).most_common(1)[0]
    config = {
        **shape.to_dict(),
        "token_layout": vocabulary.layout.to_dict(),
        "codec_fingerprint": codec.fingerprint,
        "image_area": height * width * codec.spatial_factor**2,
    }
    files = {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        JSON_FILE: vocabulary.tokenizer_json.encode(),
        "model.safetensors": save(random_weights(shape, options.seed), metadata={"format": "pt"}),
    }
    if out.exists():
        out.rmdir()
    write_directory(out, files)
    return out


def random_weights(config: DecoderConfig, seed: int) -> dict[str, np.ndarray]:
    """float32 tensors by name."""
    random, tensors = np.random.default_rng(seed), {}
    for name, shape in parameter_shapes(config).items():
        deviation = 0.02
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * config.num_hidden_layers) ** 0.5
        tensors[name] = random.normal(0, deviation, shape) if len(shape) > 1 else np.ones(shape)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
