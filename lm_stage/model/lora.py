"""Low-rank adapters (arXiv:2106.09685): train two thin matrices for each frozen one; save, restore or merge them.

Files are as the PEFT library writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from safetensors.numpy import load, save

from lm_stage.model.decoder import Decoder
from lm_stage.model.layers import Linear, LowRank
from lm_stage.model.safetensors_writer import SavedTensor, TensorFile
from shared.errors import CheckpointError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_CONDITIONAL = (f"{PREFIX}model.", f"{PREFIX}model.text_model.")  # beginnings of names in the two classes


def add_adapters(decoder: Decoder, rank: int, alpha: float, targets: Sequence[str], seed: int) -> list[Parameter]:
    """Add an adapter to every linear layer named in `targets`; return the new parameters.

    The first matrix is uniform as in the paper's code and the second is zero, so that outputs do not change before the
    first step.
    """
    random = np.random.default_rng(seed)
    parameters = []
    for name, layer in list(decoder.cells_and_names()):
        if isinstance(layer, Linear) and name.rpartition(".")[2] in targets:
            c_out, c_in = layer.weight.shape
            adapter = LowRank(c_in, c_out, rank, alpha / rank, decoder.kernels)
            bound = 1 / c_in**0.5
            adapter.lora_A.set_data(Tensor(random.uniform(-bound, bound, (rank, c_in)).astype(np.float32)))
            layer.adapter = adapter
            adapter.lora_A.name, adapter.lora_B.name = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            parameters += [adapter.lora_A, adapter.lora_B]
    return parameters


def _adapters(decoder: Decoder) -> Iterator[tuple[str, LowRank]]:
    """Yield the name of each layer that has an adapter, with the adapter."""
    for name, layer in decoder.cells_and_names():
        if isinstance(layer, Linear) and layer.adapter is not None:
            yield name, layer.adapter


def _tensors(decoder: Decoder) -> dict[str, Parameter]:
    """Return the adapters' parameters by their names in the file for an `Emu3ForCausalLM`."""
    return {
        f"{PREFIX}{name}.{matrix}.weight": parameter
        for name, adapter in _adapters(decoder)
        for matrix, parameter in (("lora_A", adapter.lora_A), ("lora_B", adapter.lora_B))
    }


def adapter_files(
    decoder: Decoder, rank: int, alpha: float, targets: Sequence[str], base: Path, is_conditional: bool
) -> dict[str, bytes]:
    """Return the files of an adapter for a base model.

    `is_conditional`: the base is an `Emu3ForConditionalGeneration`, in which the decoder is named `model.text_model`,
    and the vision tokenizer has layers of the same names.
    """
    target_modules = rf"model\.text_model\..*\.({'|'.join(targets)})" if is_conditional else sorted(targets)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.resolve()),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": target_modules,
    }
    tensors = {name: parameter.asnumpy() for name, parameter in _tensors(decoder).items()}
    if is_conditional:
        tensors = {name.replace(*_CONDITIONAL, 1): value for name, value in tensors.items()}
    return {
        CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode(),
        WEIGHTS_FILE: save(tensors, metadata={"format": "pt"}),
    }


def restore_adapters(decoder: Decoder, content: bytes, where: str) -> None:
    """Restore saved adapters. Raises CheckpointError if they belong to other layers or have another rank."""
    stored = {name.replace(*reversed(_CONDITIONAL), 1): value for name, value in load(content).items()}
    for name, parameter in _tensors(decoder).items():
        if name not in stored:
            raise CheckpointError(f"{where}: {name}: expected shape {parameter.shape}, found no such tensor")
        if stored[name].shape != parameter.shape:
            raise CheckpointError(f"{where}: {name}: expected shape {parameter.shape}, got {stored[name].shape}")
        parameter.set_data(Tensor(stored[name], dtype=ms.float32))


def merge_adapters(weights: TensorFile, decoder: Decoder) -> dict[str, SavedTensor]:
    """Return float32 weights (out, in) with the product of each adapter's matrices added when they are read."""
    merged = dict(weights)
    for layer, adapter in _adapters(decoder):
        name = f"{layer}.weight"
        merged[name] = replace(weights[name], read=partial(_read_merged, weights[name], adapter))
    return merged


def _read_merged(weight: SavedTensor, adapter: LowRank) -> np.ndarray:
    product = adapter.lora_B.asnumpy() @ adapter.lora_A.asnumpy()
    product *= adapter.scale
    product += weight.read()
    return product
