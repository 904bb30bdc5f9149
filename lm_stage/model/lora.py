"""Low-rank adapters (arXiv:2106.09685): train two thin matrices beside each frozen one, keep them, or merge them.

Files as the PEFT library writes and reads them: `adapter_config.json`, `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from safetensors.numpy import load, save

from lm_stage.model.decoder import Decoder, Linear, LowRank
from shared.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def add_adapters(decoder: Decoder, rank: int, alpha: float, targets: Sequence[str], seed: int) -> list[Parameter]:
    """Puts an adapter beside every linear layer named in `targets`; returns the new parameters.

    The first matrix is drawn as in the paper's code, the second is zero: nothing changes before the first step.
    """
    random = np.random.default_rng(seed)
    for name, layer in list(decoder.cells_and_names()):
        if isinstance(layer, Linear) and name.rpartition(".")[2] in targets:
            c_out, c_in = layer.weight.shape
            adapter = LowRank(c_in, c_out, rank, alpha / rank)
            bound = 1 / c_in**0.5
            adapter.lora_A.set_data(Tensor(random.uniform(-bound, bound, (rank, c_in)).astype(np.float32)))
            layer.adapter = adapter
            adapter.lora_A.name, adapter.lora_B.name = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
    return [p for cell in _adapters(decoder).values() for p in (cell.lora_A, cell.lora_B)]


def _adapters(decoder: Decoder) -> dict[str, LowRank]:
    """Adapter by the name of its layer."""
    layers = ((name, cell) for name, cell in decoder.cells_and_names() if isinstance(cell, Linear))
    return {name: layer.adapter for name, layer in layers if layer.adapter is not None}


def adapter_files(decoder: Decoder, rank: int, alpha: float, targets: Sequence[str], base: str) -> dict[str, bytes]:
    """Content of an adapter directory."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
    }
    tensors = {}
    for name, adapter in _adapters(decoder).items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = adapter.lora_A.asnumpy()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = adapter.lora_B.asnumpy()
    return {
        CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        WEIGHTS_FILE: save(tensors, metadata={"format": "pt"}),
    }


def restore_adapters(decoder: Decoder, content: bytes, where: str) -> None:
    """Puts saved adapters back. Raises CheckpointError if they are of other layers or ranks."""
    tensors = load(content)
    for name, adapter in _adapters(decoder).items():
        for p, kind in ((adapter.lora_A, "lora_A"), (adapter.lora_B, "lora_B")):
            stored = tensors.get(f"{PREFIX}{name}.{kind}.weight")
            if stored is None or stored.shape != p.shape:
                raise CheckpointError(
                    f"{where}: {name}.{kind}: expected {p.shape}, got {getattr(stored, 'shape', None)}"
                )
            p.set_data(Tensor(stored, dtype=ms.float32))


def add_adapters_to(weights: dict[str, np.ndarray], decoder: Decoder) -> None:
    """Adds the product of each adapter into the float32 weight (out, in) it stands beside."""
    for layer, one in _adapters(decoder).items():
        weights[f"{layer}.weight"] += one.scale * (one.lora_B.asnumpy() @ one.lora_A.asnumpy())
