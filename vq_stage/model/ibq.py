"""The IBQ tokenizer of Emu3.5: pictures only, with codes by index backpropagation quantization.

Shape suffixes: B batch, T frames, always one, C channels, H W pixels or codes (lower case h w where both occur).
Source: Emu3.5's vision tokenizer (BAAI), after IBQ (Shi et al. 2024, arXiv:2412.02692).
"""

from __future__ import annotations

from mindspore import Tensor

from vq_stage.model.autoencoder import Autoencoder, Quantizer
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.kernels import Kernels
from vq_stage.model.layers import Conv2d
from vq_stage.model.spatial import SpatialDecoder, SpatialEncoder


class IbqNetwork(Autoencoder):
    """Spatial encoder, quantizer and spatial decoder, with plain group norms throughout."""

    def __init__(self, config: IbqConfig, kernels: Kernels):
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.encoder = SpatialEncoder(config, kernels)
        self.decoder = SpatialDecoder(config, kernels)
        self.quantize = IndexQuantizer(config, kernels)
        self.quant_conv = Conv2d(kernels, config.latent_channels, config.embed_dim, 1)
        self.post_quant_conv = Conv2d(kernels, config.embed_dim, config.latent_channels, 1)

    def encode_latents(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return the latents (B, 1, C, h, w) of pictures (B, 1, 3, H, W), before quantization."""
        return _with_frames(self.quant_conv(self.encoder.encode_frames(_without_frames(pixels_BTCHW))))

    def decode_quantized(self, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels (B, 1, 3, H, W) of quantized latents (B, 1, C, h, w)."""
        features_BCHW = self.post_quant_conv(_without_frames(quantized_BTCHW))
        return _with_frames(self.decoder.decode_frames(features_BCHW))


class IndexQuantizer(Quantizer):
    """A codebook whose entries are compared with latents by their dot product, neither of them normalized."""

    def nearest_codes(self, latents_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, T, H, W) in [0, K): the entry with the largest dot product.

        Ties go to the lowest index.
        """
        return self.kernels.argmax_codes(latents_BTCHW, self.embedding.weight)


def _without_frames(x_BTCHW: Tensor) -> Tensor:
    """Return (B, C, H, W) of the only frame."""
    B, _, C, H, W = x_BTCHW.shape
    return x_BTCHW.reshape(B, C, H, W)


def _with_frames(x_BCHW: Tensor) -> Tensor:
    """Return (B, 1, C, H, W)."""
    B, C, H, W = x_BCHW.shape
    return x_BCHW.reshape(B, 1, C, H, W)
