"""What the networks of all families of tokenizers have in common: pixels to codes and back.

Shape suffixes: B batch, T frames, C channels, H W pixels or codes (lower case h w where both occur), K codebook.
Pixels are in [-1, 1].

    pixels ─ encode_latents ─▶ latents ─ Quantizer ─▶ codes
    pixels ◀─ decode_quantized ─ quantized ◀─ Quantizer ─ codes
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import mindspore as ms
from mindspore import Tensor, nn

from vq_stage.model.kernels import Kernels
from vq_stage.model.layers import WEIGHTED_CELLS, parameter
from vq_stage.model.spatial_config import SpatialConfig

Network = TypeVar("Network", bound="Autoencoder")


class Autoencoder(nn.Cell):
    """Encoder, decoder and quantizer, the first two defined by the family."""

    config: SpatialConfig
    kernels: Kernels
    quantize: Quantizer

    def compute_in(self: Network, dtype: ms.Type) -> Network:
        """Let convolutions and products compute in `dtype`, the type of their weights; all else stays float32."""
        for _, cell in self.cells_and_names():
            if isinstance(cell, WEIGHTED_CELLS):
                cell.weight.set_dtype(dtype)
                cell.bias.set_dtype(dtype)
        return self

    @ms.jit(jit_level="O0")
    def encode_pixels(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, 1, h, w) of images (T = 1), or of clips if the family encodes them."""
        return self.quantize.nearest_codes(self.encode_latents(pixels_BTCHW))

    @ms.jit(jit_level="O0")
    def decode_codes(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of codes (B, T, h, w): (B, 1, 3, H, W) for images, more frames for clips."""
        return self.decode_quantized(self.quantize.lookup(codes_BTHW), is_image)

    @abstractmethod
    def encode_latents(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return the latents (B, 1, C, h, w) of images or clips, before quantization."""

    @abstractmethod
    def decode_quantized(self, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of quantized latents (B, T, C, h, w)."""


class Quantizer(nn.Cell):
    """The codebook: latents to the index of the nearest entry, and indices back to entries.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning".
    """

    def __init__(self, config: SpatialConfig, kernels: Kernels):
        super().__init__()
        self.kernels = kernels
        self.embedding = _Codebook(config)

    def nearest_codes(self, latents_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, T, H, W) in [0, K): the nearest entry by Euclidean distance.

        Ties go to the lowest index.
        """
        return self.kernels.nearest_codes(latents_BTCHW, self.embedding.weight)

    def lookup(self, codes_BTHW: Tensor) -> Tensor:
        """Return the codebook entries (B, T, C, H, W) of codes (B, T, H, W): the quantized latents."""
        return self.kernels.lookup(codes_BTHW, self.embedding.weight).transpose(0, 1, 4, 2, 3)


class _Codebook(nn.Cell):
    """Holds `embedding.weight` (K, C)."""

    def __init__(self, config: SpatialConfig):
        super().__init__()
        self.weight = parameter(config.codebook_size, config.embed_dim)
