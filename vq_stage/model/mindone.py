"""mindone's `Emu3VQVAE` behind the interface of our vision tokenizer: a second opinion for owners of an NPU.

Shape suffixes: B batch, T frames, C channels, H W pixels, h w codes. Pixels are in [-1, 1].
mindone 0.5 keeps the Hugging Face parameter names, so only its batch counters have no counterpart in `read_weights`.
Nothing here has run on an NPU yet; the tests run it on CPU with substitutes for the kernels CPU lacks.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import Tensor, ops

from shared.device import Device
from shared.errors import DeviceError
from shared.storage.safetensors_reader import check_tensors
from vq_stage.model.config import VQConfig
from vq_stage.model.weights import read_weights

if TYPE_CHECKING:
    from mindone.transformers.models.emu3.modeling_emu3 import Emu3VQVAE

_COUNTER = ".num_batches_tracked"


class MindoneModel:
    """mindone's model with the shapes of VQModel. Build it with `from_pretrained`."""

    def __init__(self, model: Emu3VQVAE):
        self.model = model

    @classmethod
    def from_pretrained(cls, directory: str | Path, config: VQConfig, device: Device) -> MindoneModel:
        """Loads a local checkpoint of BAAI's or Hugging Face's naming into mindone's model.

        Raises DeviceError on CPU or without mindone, CheckpointError if weights and config do not fit.
        """
        if device.kind == "CPU":
            raise DeviceError(
                "backend mindone on CPU: mindone's Emu3 is built on mindspore.mint, whose kernels (Conv2DExt,"
                " BatchNormExt, Embedding, …) are not registered on CPU; take --backend native, or run on an NPU"
            )
        return cls.load(directory, config, device.dtype)

    @classmethod
    def load(cls, directory: str | Path, config: VQConfig, dtype: str) -> MindoneModel:
        """`from_pretrained` without the check of the device; MindSpore raises RuntimeError if a kernel is missing."""
        model = build_emu3_vqvae(config)
        load_weights(model, directory)
        if dtype != "float32":
            model.to(getattr(ms, dtype))
        return cls(model)

    def encode(self, pixels_BTCHW: Tensor) -> Tensor:
        """int32 codes (B, 1, h, w) of images (T = 1), which mindone repeats to four frames, or of 4-frame clips."""
        B, T, _, H, W = pixels_BTCHW.shape
        if T == 1:
            return ops.stack(self.model.encode(pixels_BTCHW[:, 0], [(H, W)] * B)).expand_dims(1).astype(ms.int32)
        # Of a clip's codes (1, h, w) mindone cuts the first two axes to the size it is given, so h stands second.
        return ops.stack(self.model.encode(pixels_BTCHW, [(H, H)] * B)).astype(ms.int32)

    def decode(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Unclipped pixels of codes (B, T, h, w): (B, 1, 3, H, W) for images (T = 1), (B, 4·T, 3, H, W) for clips."""
        if is_image:
            return self.model.decode(codes_BTHW[:, 0]).expand_dims(1)
        return self.model.decode(codes_BTHW)


def build_emu3_vqvae(config: VQConfig) -> Emu3VQVAE:
    """mindone's model with random weights, in inference mode. Raises DeviceError if mindone cannot be imported."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints notices while it is imported
            from mindone.transformers.models.emu3.modeling_emu3 import Emu3VQVAE
            from transformers import Emu3VQVAEConfig
    except ImportError as error:
        raise DeviceError(
            f"backend mindone: cannot be imported: {error}; pip install 'emu3-relay[mindone]' or take --backend native"
        ) from error
    return Emu3VQVAE(Emu3VQVAEConfig.from_dict(config.to_dict())).set_train(False)


def load_weights(model: Emu3VQVAE, directory: str | Path) -> None:
    """Copies a checkpoint into mindone's model. Raises CheckpointError naming tensors that do not fit."""
    tensors = read_weights(directory)
    parameters = {name: p for name, p in model.parameters_and_names() if not name.endswith(_COUNTER)}
    check_tensors(str(directory), tensors, {name: tuple(p.shape) for name, p in parameters.items()})
    for name, p in parameters.items():
        p.set_data(Tensor(tensors[name].float32().reshape(p.shape)))
