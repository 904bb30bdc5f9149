"""The Emu3 vision tokenizer, in the order the pixels flow: encoder, quantizer, decoder.

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

import mindspore as ms
from mindspore import Tensor, nn, ops

from shared.codec import TEMPORAL_FACTOR
from vq_stage.model.config import VQConfig
from vq_stage.model.kernels import Kernels
from vq_stage.model.layers import (
    WEIGHTED_CELLS,
    CausalConv3d,
    Conv2d,
    Downsample,
    GroupNorm,
    MiddleBlock,
    ResolutionLevel,
    SpatialNorm,
    TemporalConv,
    TemporalResnetBlock,
    Upsample,
    parameter,
    repeat_frames,
)


class VQModel(nn.Cell):
    """Encoder, quantizer and decoder, with the temporal convolutions between them."""

    def __init__(self, config: VQConfig, kernels: Kernels):
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.encoder = Encoder(config, kernels)
        self.decoder = Decoder(config, kernels)
        self.quantize = Quantizer(config, kernels)
        self.quant_conv = CausalConv3d(kernels, config.latent_channels, config.embed_dim, taps=3, size=1)
        self.post_quant_conv = CausalConv3d(kernels, config.embed_dim, config.latent_channels, taps=3, size=1)

    def compute_in(self, dtype: ms.Type) -> VQModel:
        """Let convolutions and products compute in `dtype`, the type of their weights; all else stays float32."""
        for _, cell in self.cells_and_names():
            if isinstance(cell, WEIGHTED_CELLS):
                cell.weight.set_dtype(dtype)
                cell.bias.set_dtype(dtype)
        return self

    @ms.jit(jit_level="O0")
    def encode_pixels(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return integer codes (B, 1, h, w) of images (T = 1) or 4-frame clips."""
        return self.quantize.nearest_codes(self.encode_latents(pixels_BTCHW))

    def encode_latents(self, pixels_BTCHW: Tensor) -> Tensor:
        """Return the latents (B, 1, C, h, w) of images (T = 1) or 4-frame clips, before quantization."""
        return self.quant_conv(self.encoder(pixels_BTCHW))

    @ms.jit(jit_level="O0")
    def decode_codes(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels of codes (B, T, h, w): (B, 1, 3, H, W) for images, (B, 4·T, 3, H, W) for clips."""
        return self.decode_quantized(self.quantize.lookup(codes_BTHW), is_image)

    def decode_quantized(self, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        """Return unclipped pixels (B, 1 or 4·T, 3, H, W) of quantized latents (B, T, C, h, w)."""
        return self.decoder(self.post_quant_conv(quantized_BTCHW), quantized_BTCHW, is_image)


class Encoder(nn.Cell):
    """Pixels (B, T, 3, H, W), T = 1 for an image or 4 for a clip, to features (B, 1, C, h, w)."""

    def __init__(self, config: VQConfig, kernels: Kernels):
        super().__init__()
        width, latent = config.level_channels(-1), config.latent_channels
        self.conv_in = Conv2d(kernels, config.in_channels, config.base_channels, 3, pad=1)
        self.down_block = DownBlock(config, kernels)
        self.middle_block = MiddleBlock(kernels, width)
        self.norm_out = GroupNorm(kernels, width)
        self.conv_out = Conv2d(kernels, width, latent, 3, pad=1)
        self.time_conv = nn.CellList([TemporalConv(kernels, latent, 4, 2) for _ in range(2)])
        self.time_res_stack = nn.CellList([TemporalResnetBlock(kernels, latent) for _ in range(config.num_res_blocks)])

    def construct(self, pixels_BTCHW: Tensor) -> Tensor:
        B, T, C, H, W = pixels_BTCHW.shape
        x = self.conv_in(pixels_BTCHW.reshape(B * T, C, H, W))
        x = self.middle_block(self.down_block(x))
        x = self.conv_out(ops.silu(self.norm_out(x)))
        x = x.reshape(B, T, x.shape[1], x.shape[2], x.shape[3])
        if T == 1:
            x = repeat_frames(x, TEMPORAL_FACTOR)
        for conv in self.time_conv:
            x = conv(x)
        for block in self.time_res_stack:
            x = block(x)
        return x


class DownBlock(nn.Cell):
    """The encoder's levels, from full to lowest resolution."""

    def __init__(self, config: VQConfig, kernels: Kernels):
        super().__init__()
        self.down = nn.CellList([DownLevel(config, kernels, level) for level in range(config.levels)])

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for level in self.down:
            x = level(x)
        return x


class DownLevel(ResolutionLevel):
    """One level of the encoder: its blocks, then downsampling except at the lowest resolution."""

    def __init__(self, config: VQConfig, kernels: Kernels, level: int):
        c_in = config.level_channels(level - 1) if level else config.base_channels
        c_out = config.level_channels(level)
        super().__init__(kernels, [c_in] + [c_out] * config.num_res_blocks, level in config.attn_resolutions)
        self.is_last = level == config.levels - 1
        if not self.is_last:
            self.downsample = Downsample(kernels, c_out)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = self.run_blocks(x_BCHW)
        return x if self.is_last else self.downsample(x)


class Quantizer(nn.Cell):
    """The codebook: latents to the index of the nearest entry, and indices back to entries.

    Source: van den Oord et al. 2017, "Neural Discrete Representation Learning".
    """

    def __init__(self, config: VQConfig, kernels: Kernels):
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

    def __init__(self, config: VQConfig):
        super().__init__()
        self.weight = parameter(config.codebook_size, config.embed_dim)


class Decoder(nn.Cell):
    """Features and quantized latents (B, T, C, h, w) to pixels (B, 1 or 4·T, 3, H, W)."""

    def __init__(self, config: VQConfig, kernels: Kernels):
        super().__init__()
        width, latent = config.level_channels(-1), config.latent_channels
        self.time_res_stack = nn.CellList([TemporalResnetBlock(kernels, latent) for _ in range(config.num_res_blocks)])
        self.time_conv = nn.CellList([TemporalConv(kernels, latent, 3, 1) for _ in range(2)])
        self.conv_in = Conv2d(kernels, latent, width, 3, pad=1)
        self.middle_block = MiddleBlock(kernels, width, config.embed_dim)
        self.up_block = UpBlock(config, kernels)
        self.norm_out = SpatialNorm(kernels, config.level_channels(0), config.embed_dim)
        self.conv_out = Conv2d(kernels, config.level_channels(0), config.out_channels, 3, pad=1)
        self.spatial_factor = config.spatial_factor
        self.kernels = kernels

    def construct(self, features_BTCHW: Tensor, quantized_BTCHW: Tensor, is_image: bool) -> Tensor:
        x = ops.concat((features_BTCHW, quantized_BTCHW), 0)  # both pass the same temporal layers
        for block in self.time_res_stack:
            x = block(x)
        for conv in self.time_conv:
            x = conv(x if is_image else repeat_frames(x, 2))
        B, T, C, H, W = x.shape
        B = B // 2
        features, quantized = x[:B].reshape(B * T, C, H, W), x[B:].reshape(B * T, C, H, W)
        x = self.middle_block(self.conv_in(features), quantized)
        x = self.up_block(x, quantized)
        x = self.norm_out(x, self.kernels.upsample_nearest(quantized, self.spatial_factor))
        x = self.conv_out(ops.silu(x))
        return x.reshape(B, T, x.shape[1], x.shape[2], x.shape[3])


class UpBlock(nn.Cell):
    """The decoder's levels, from lowest to full resolution; they are stored in the opposite order."""

    def __init__(self, config: VQConfig, kernels: Kernels):
        super().__init__()
        self.levels = config.levels
        self.up = nn.CellList([UpLevel(config, kernels, level) for level in range(self.levels)])

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for i in range(self.levels):
            x = self.up[self.levels - 1 - i](x, quantized_BCHW)
        return x


class UpLevel(ResolutionLevel):
    """One level of the decoder: its blocks, then upsampling except at full resolution."""

    def __init__(self, config: VQConfig, kernels: Kernels, level: int):
        c_in, c_out = config.level_channels(min(level + 1, config.levels - 1)), config.level_channels(level)
        widths = [c_in] + [c_out] * (config.num_res_blocks + 1)
        super().__init__(kernels, widths, level in config.attn_resolutions, config.embed_dim)
        self.kernels = kernels
        self.quantized_scale = 2 ** (config.levels - 1 - level)
        self.is_last = level == 0
        if not self.is_last:
            self.upsample = Upsample(kernels, c_out)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor) -> Tensor:
        x = self.run_blocks(x_BCHW, self.kernels.upsample_nearest(quantized_BCHW, self.quantized_scale))
        return x if self.is_last else self.upsample(x)
