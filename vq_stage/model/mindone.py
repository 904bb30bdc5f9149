"""mindone's `Emu3VQVAE` behind the interface of our vision tokenizer, to compare with on an NPU.

Shape suffixes: B batch, T frames, C channels, H W pixels, h w codes. Pixels are in [-1, 1].
mindone 0.5 keeps the Hugging Face parameter names.
Nothing here has run on an NPU yet; the tests run it on CPU with substitutes for the kernels CPU lacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import Tensor, ops

from shared.mindone import importing_mindone
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.weights import load_weights

if TYPE_CHECKING:
    from mindone.transformers.models.emu3.modeling_emu3 import Emu3VQVAE


class MindoneBackend:
    """mindone's model with the methods and shapes of Emu3Network. Build it with `from_pretrained`."""

    def __init__(self, model: Emu3VQVAE):
        self.model = model

    @classmethod
    def from_pretrained(cls, directory: str | Path, config: Emu3Config) -> MindoneBackend:
        """Load a local checkpoint of BAAI's or Hugging Face's naming into mindone's model, in float32.

        Raises DeviceError if mindone cannot be imported, CheckpointError if weights and config do not fit. The device
        is not checked: if it lacks a kernel, MindSpore raises RuntimeError when the model runs.
        """
        model = build_emu3_vqvae(config)
        load_weights(model, directory)
        return cls(model)

    def encode_pixels(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return int32 codes (B, 1, h, w) of images (T = 1), which mindone repeats to 4 frames, or of 4-frame clips."""
        B, T, _, H, W = pixels_BTCHW.shape
        if T == 1:
            return ops.stack(self.model.encode(pixels_BTCHW[:, 0], [(H, W)] * B)).expand_dims(1).astype(ms.int32)
        # mindone crops the first two axes of a clip's codes (1, h, w) to the given size, so the second must be h.
        return ops.stack(self.model.encode(pixels_BTCHW, [(H, H)] * B)).astype(ms.int32)

    def decode_codes(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of codes (B, T, h, w): (B, 1, 3, H, W) for images, (B, 4·T, 3, H, W) for clips."""
        if is_image:
            return self.model.decode(codes_BTHW[:, 0]).expand_dims(1)
        return self.model.decode(codes_BTHW)


def build_emu3_vqvae(config: Emu3Config) -> Emu3VQVAE:
    """Return mindone's model with random weights, in inference mode. Raises DeviceError if mindone is not installed."""
    with importing_mindone():
        from mindone.transformers.models.emu3.modeling_emu3 import Emu3VQVAE
        from transformers import Emu3VQVAEConfig
    return Emu3VQVAE(Emu3VQVAEConfig.from_dict(config.to_dict())).set_train(False)
