"""Adapters of a decoder with norms of queries and keys: merged weights compute what the adapters do."""

from __future__ import annotations

import shutil
from pathlib import Path

import mindspore as ms
import numpy as np

from lm_stage.model.backend import NativeBackend
from lm_stage.model.lora import add_adapters, merge_adapters
from lm_stage.model.safetensors_writer import SavedTensor, write_safetensors
from lm_stage.model.weights import read_weights
from tests.support.golden_training import golden_decoder

IDS = np.array([303, 166, 189, 184, 142], np.int32)


def test_adapters_of_normalized_projections_are_merged(golden_emu35: Path, tmp_path: Path) -> None:
    decoder, random = golden_decoder(golden_emu35), np.random.default_rng(0)
    before = NativeBackend(golden_decoder(golden_emu35)).logits(IDS)
    parameters = add_adapters(decoder, 4, 8.0, ["q_proj", "k_proj", "o_proj"], seed=0)
    assert len(parameters) == 2 * 3 * decoder.config.num_hidden_layers
    for p in parameters[1::2]:
        p.set_data(ms.Tensor(random.normal(0, 0.1, p.shape).astype(np.float32)))
    adapted = NativeBackend(decoder).logits(IDS)
    assert np.abs(adapted - before).max() > 0.01
    stored = {name: SavedTensor("F32", one.shape, one.float32) for name, one in read_weights(golden_emu35).items()}
    write_safetensors(tmp_path / "model.safetensors", merge_adapters(stored, decoder))
    shutil.copy(golden_emu35 / "config.json", tmp_path)
    np.testing.assert_allclose(NativeBackend(golden_decoder(tmp_path)).logits(IDS), adapted, atol=1e-4)
