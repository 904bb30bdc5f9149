"""The Emu3 vision tokenizer: the spatial layers of all families, and the temporal ones between them.

Shape suffixes: B batch, T frames, C channels, H W pixels or codes (lower case h w where both occur), K codebook.
Pixels are in [-1, 1].

    pixels ─ Encoder ─ quant_conv ─▶ latents ─ Quantizer ─▶ codes
    pixels ◀─ Decoder ─ post_quant_conv ─ quantized ◀─ Quantizer ─ codes

Four frames become one grid of codes. An image is a clip of one repeated frame: the spatial network runs once on that
frame, its latents are repeated before the temporal layers, and only the first decoded frame, which depends on no
other, is computed. Codes and pixels equal those of all four frames.
Source: Emu3 vision tokenizer (BAAI); parameter names of Hugging Face `Emu3VQVAE`.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from vq_stage.model.autoencoder import Autoencoder, Quantizer
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.kernels import Kernels
from vq_stage.model.layers import CausalConv3d, TemporalConv, TemporalResnetBlock, repeat_frames
from vq_stage.model.spatial import SpatialDecoder, SpatialEncoder


class Emu3Network(Autoencoder):
    """Encoder, quantizer and decoder, with the temporal convolutions between them."""

    def __init__(self, config: Emu3Config, kernels: Kernels):
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.encoder = Encoder(config, kernels)
        self.decoder = Decoder(config, kernels)
        self.quantize = Quantizer(config, kernels)
        self.quant_conv = CausalConv3d(kernels, config.latent_channels, config.embed_dim, taps=3, size=1)
        self.post_quant_conv = CausalConv3d(kernels, config.embed_dim, config.latent_channels, taps=3, size=1)

    def encode_latents(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return the latents (B, 1, C, h, w) of images (T = 1) or 4-frame clips, before quantization."""
        return self.quant_conv(self.encoder(pixels_BTCHW))

    def decode_quantized(self, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels (B, 1 or 4·T, 3, H, W) of quantized latents (B, T, C, h, w)."""
        return self.decoder(self.post_quant_conv(quantized_BTCHW), quantized_BTCHW, is_image)


class Encoder(SpatialEncoder):
    """Pixels (B, T, 3, H, W), T = 1 for an image or 4 for a clip, to features (B, 1, C, h, w)."""

    def __init__(self, config: Emu3Config, kernels: Kernels):
        super().__init__(config, kernels)
        latent, self.temporal_factor = config.latent_channels, config.temporal_factor
        self.time_conv = nn.CellList([TemporalConv(kernels, latent, 4, 2) for _ in range(2)])
        self.time_res_stack = nn.CellList([TemporalResnetBlock(kernels, latent) for _ in range(config.num_res_blocks)])

    def construct(self, pixels_BTCHW: Tensor) -> Tensor:
        B, T, C, H, W = pixels_BTCHW.shape
        x = self.encode_frames(pixels_BTCHW.reshape(B * T, C, H, W))
        x = x.reshape(B, T, x.shape[1], x.shape[2], x.shape[3])
        if T == 1:
            x = repeat_frames(x, self.temporal_factor)
        for conv in self.time_conv:
            x = conv(x)
        for block in self.time_res_stack:
            x = block(x)
        return x


class Decoder(SpatialDecoder):
    """Features and quantized latents (B, T, C, h, w) to pixels (B, 1 or 4·T, 3, H, W)."""

    def __init__(self, config: Emu3Config, kernels: Kernels):
        super().__init__(config, kernels, config.embed_dim)
        latent = config.latent_channels
        self.time_res_stack = nn.CellList([TemporalResnetBlock(kernels, latent) for _ in range(config.num_res_blocks)])
        self.time_conv = nn.CellList([TemporalConv(kernels, latent, 3, 1) for _ in range(2)])

    def construct(self, features_BTCHW: Tensor, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        x = ops.concat((features_BTCHW, quantized_BTCHW), 0)  # both pass the same temporal layers
        for block in self.time_res_stack:
            x = block(x)
        for conv in self.time_conv:
            x = conv(x if is_image else repeat_frames(x, 2))
        B, T, C, H, W = x.shape
        B = B // 2
        features, quantized = x[:B].reshape(B * T, C, H, W), x[B:].reshape(B * T, C, H, W)
        x = self.decode_frames(features, quantized)
        return x.reshape(B, T, x.shape[1], x.shape[2], x.shape[3])
