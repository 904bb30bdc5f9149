"""Substitutes for the mint kernels that mindone's Emu3 needs and CPU lacks, and what its two probes share.

`substitute_kernels` changes MindSpore for the rest of the process, so mindone runs in a process of its own:
`run_probe` starts `mindone_vision_probe.py` or `mindone_language_probe.py` and returns what it computed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.mint.nn.functional as mint_functional
import mindspore.mint.nn.layer.conv as mint_conv
import numpy as np
from mindspore import Tensor, mint, ops

from shared.errors import CheckpointError
from tests.support.command import REPOSITORY, environment

TIMEOUT_S = 600


def arange(start: int, end: int | None = None, step: int = 1, *, dtype: ms.Type = ms.int64) -> Tensor:
    return Tensor(np.arange(start, end, step), dtype)


def argmin(x: Tensor, dim: int) -> Tensor:
    return ops.Argmin(dim)(x)


def embedding(indices: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return ops.gather(weight, indices, 0)


def pad(x: Tensor, pad: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Tensor:
    return ops.pad(x, pad, mode, value)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, *_: Any) -> Tensor:
    return ops.conv2d(x, weight, bias, stride, "pad", padding)


def conv3d(x: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, *_: Any) -> Tensor:
    return ops.conv3d(x, weight, bias, stride, "pad", padding)


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, training: bool, _: float, eps: float
) -> Tensor:
    """Inference only; x is (B, C, T, H, W)."""
    assert not training, "the model must be in inference mode"
    mean, variance, weight, bias = (p.reshape(1, -1, 1, 1, 1) for p in (mean, variance, weight, bias))
    return (x - mean) / ops.sqrt(variance + eps) * weight + bias


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    assert not training, "the model must be in inference mode"
    return x


def uniform_(self: Tensor, *_: Any) -> Tensor:
    """Leave the codebook as it is: the checkpoint overwrites it."""
    return self


def substitute_kernels() -> None:
    """Replace, for the rest of the process, what mindone's Emu3 models use and CPU does not have."""
    mint.arange = arange
    mint.argmin = argmin
    mint.functional.batch_norm = batch_norm
    mint_functional.pad = pad
    mint_functional.dropout = dropout
    mint_conv.conv2d_ext_op = conv2d
    mint_conv.conv3d_ext_op = conv3d
    ops.embedding = embedding
    Tensor.uniform_ = uniform_


def refusal_of(load: Callable[[], object]) -> str:
    """Return the text of the CheckpointError that loading raises, or an empty string if it succeeds."""
    try:
        load()
    except CheckpointError as error:
        return str(error)
    return ""


def run_probe(name: str, *paths: Path, outputs: Path) -> dict[str, np.ndarray]:
    """Run `tests.support.NAME PATHS… OUTPUTS` and return the arrays it wrote to OUTPUTS, an .npz file."""
    command = [sys.executable, "-m", f"tests.support.{name}", *map(str, paths), str(outputs)]
    variables = environment(USE_TORCH="0")  # keeps transformers from importing torch
    run = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.returncode == 0, run.stderr
    with np.load(outputs) as file:
        return {name: file[name] for name in file.files}
