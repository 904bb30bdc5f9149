"""The names of the full published decoder of Emu3.5 are those that upstream's code writes."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import safe_open

from lm_stage.model.config import DecoderConfig
from lm_stage.model.weights import parameter_shapes


def test_names_of_64_layers_are_those_of_the_golden_decoder(golden_emu35: Path) -> None:
    """By shapes only; the golden weights were written by the code of Qwen3 in transformers."""
    sizes = {"vocab_size": 282_926, "hidden_size": 5120, "intermediate_size": 25_600, "num_hidden_layers": 64}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    shapes = parameter_shapes(DecoderConfig(**sizes, **heads, qk_norm=True, max_position_embeddings=32_768))
    with safe_open(golden_emu35 / "model.safetensors", "numpy") as golden:
        golden_names = set(golden.keys())
    expected = {re.sub(r"\.layers\.\d+\.", f".layers.{layer}.", name) for name in golden_names for layer in range(64)}
    assert set(shapes) == expected
