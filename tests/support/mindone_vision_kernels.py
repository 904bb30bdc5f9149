"""Runs mindone's vision tokenizer on CPU, with classic operators in place of the mint kernels CPU lacks.

The substitution is for a process of its own: nothing is restored. `python -m tests.support.mindone_vision_kernels
CHECKPOINT DAMAGED INPUT.npz OUTPUT.npz` takes `images` (B, H, W, 3) and `video` (T, H, W, 3), uint8, and writes
their `image_codes`, `image_pixels`, `video_codes` and `video_pixels`, all through `VisionTokenizer`, and in `refusal`
why the checkpoint DAMAGED was refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import mindspore.mint.nn.functional as mint_functional
import mindspore.mint.nn.layer.conv as mint_conv
import numpy as np
from mindspore import Tensor, mint, ops

from shared.device import setup_device
from shared.errors import CheckpointError
from vq_stage.model.config import VQConfig
from vq_stage.model.mindone import MindoneModel
from vq_stage.tokenizer import VisionTokenizer


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
    assert not training, "the tokenizer must be in inference mode"
    mean, variance, weight, bias = (p.reshape(1, -1, 1, 1, 1) for p in (mean, variance, weight, bias))
    return (x - mean) / ops.sqrt(variance + eps) * weight + bias


def argmin(x: Tensor, dim: int) -> Tensor:
    return ops.Argmin(dim)(x)


def embedding(indices: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return ops.gather(weight, indices, 0)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    assert not training, "the tokenizer must be in inference mode"
    return x


def uniform_(self: Tensor, *_: Any) -> Tensor:
    """Leaves the codebook as it is: the checkpoint overwrites it."""
    return self


def substitute_kernels() -> None:
    """Replaces, for the rest of the process, what mindone's `Emu3VQVAE` uses and CPU does not have."""
    mint_conv.conv2d_ext_op = conv2d
    mint_conv.conv3d_ext_op = conv3d
    mint_functional.pad = pad
    mint_functional.dropout = dropout
    mint.functional.batch_norm = batch_norm
    mint.argmin = argmin
    ops.embedding = embedding
    Tensor.uniform_ = uniform_


def refusal_of(checkpoint: Path, config: VQConfig) -> str:
    """The text of the CheckpointError that loading raises; empty if it loads."""
    try:
        MindoneModel.load(checkpoint, config, "float32")
    except CheckpointError as error:
        return str(error)
    return ""


def main(checkpoint: Path, damaged: Path, inputs: Path, outputs: Path) -> None:
    """Encodes and decodes the inputs; see the module."""
    device = setup_device("cpu")
    substitute_kernels()
    config = VQConfig.from_directory(checkpoint)
    tokenizer = VisionTokenizer(MindoneModel.load(checkpoint, config, device.dtype), config, device)
    with np.load(inputs) as file:
        image_codes = tokenizer.encode_images(file["images"])
        video_codes = tokenizer.encode_video(file["video"])
    np.savez(
        outputs,
        image_codes=image_codes,
        image_pixels=tokenizer.decode_images(image_codes),
        video_codes=video_codes,
        video_pixels=tokenizer.decode_video(video_codes),
        refusal=refusal_of(damaged, config),
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
