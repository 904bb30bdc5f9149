"""The Emu3 vision tokenizer, read in the order the pixels go: encoder, quantizer, decoder.

Shape suffixes: B batch, T frames, C channels, H W grid, K codebook entries. Pixels are in [-1, 1].
Four frames become one grid of codes. An image is a clip of one repeated frame: the spatial network runs
once on that frame, its latents are repeated before the temporal layers, and only the first decoded frame,
which sees no other, is computed. Same codes and pixels as running all four.
Source: Emu3 vision tokenizer (BAAI); parameter names of Hugging Face `Emu3VQVAE`.
"""

from __future__ import annotations

from itertools import pairwise

import mindspore as ms
from mindspore import Tensor, nn, ops

from shared.codec import TEMPORAL_FACTOR
from vq_stage.model.config import VQConfig
from vq_stage.model.layers import (
    Attention,
    CausalConv3d,
    Conv2d,
    Downsample,
    GroupNorm,
    ResnetBlock,
    SpatialNorm,
    TemporalConv,
    TemporalResnetBlock,
    Upsample,
    make_norm,
    parameter,
    repeat_frames,
    upsample_nearest,
)


class MiddleBlock(nn.Cell):
    """Residual block, attention, residual block, at the smallest grid."""

    def __init__(self, channels: int, latent_channels: int | None = None):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, latent_channels)
        self.attn_norm = make_norm(channels, latent_channels)
        self.attn_1 = Attention(channels)
        self.block_2 = ResnetBlock(channels, channels, latent_channels)

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor | None = None) -> Tensor:
        x = self.block_1(x_BCHW, latents_BCHW)
        x = x + self.attn_1(self.attn_norm(x, latents_BCHW))
        return self.block_2(x, latents_BCHW)


class Level(nn.Cell):
    """The blocks of one resolution, each followed by attention where the config asks for it."""

    def __init__(self, widths: list[int], has_attention: bool, latent_channels: int | None = None):
        super().__init__()
        self.block = nn.CellList([ResnetBlock(a, b, latent_channels) for a, b in pairwise(widths)])
        self.attn = nn.CellList([Attention(b) for b in widths[1:] if has_attention])
        self.attn_norms = nn.CellList([make_norm(b, latent_channels) for b in widths[1:] if has_attention])
        self.has_attention = has_attention

    def run_blocks(self, x_BCHW: Tensor, latents_BCHW: Tensor | None = None) -> Tensor:
        x = x_BCHW
        for i in range(len(self.block)):
            x = self.block[i](x, latents_BCHW)
            if self.has_attention:
                x = x + self.attn[i](self.attn_norms[i](x, latents_BCHW))
        return x


class DownLevel(Level):
    def __init__(self, config: VQConfig, level: int):
        c_in = config.level_channels(max(level - 1, 0)) if level else config.base_channels
        c_out = config.level_channels(level)
        super().__init__([c_in] + [c_out] * config.num_res_blocks, level in config.attn_resolutions)
        self.is_last = level == len(config.channel_multiplier) - 1
        if not self.is_last:
            self.downsample = Downsample(c_out)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = self.run_blocks(x_BCHW)
        return x if self.is_last else self.downsample(x)


class UpLevel(Level):
    def __init__(self, config: VQConfig, level: int):
        levels = len(config.channel_multiplier)
        c_in, c_out = config.level_channels(min(level + 1, levels - 1)), config.level_channels(level)
        widths = [c_in] + [c_out] * (config.num_res_blocks + 1)
        super().__init__(widths, level in config.attn_resolutions, config.embed_dim)
        self.latent_scale = 2 ** (levels - 1 - level)
        self.is_first = level == 0
        if not self.is_first:
            self.upsample = Upsample(c_out)

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor) -> Tensor:
        x = self.run_blocks(x_BCHW, upsample_nearest(latents_BCHW, self.latent_scale))
        return x if self.is_first else self.upsample(x)


class DownBlock(nn.Cell):
    def __init__(self, config: VQConfig):
        super().__init__()
        self.down = nn.CellList([DownLevel(config, level) for level in range(len(config.channel_multiplier))])

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for level in self.down:
            x = level(x)
        return x


class UpBlock(nn.Cell):
    def __init__(self, config: VQConfig):
        super().__init__()
        self.levels = len(config.channel_multiplier)
        self.up = nn.CellList([UpLevel(config, level) for level in range(self.levels)])

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for i in range(self.levels):
            x = self.up[self.levels - 1 - i](x, latents_BCHW)
        return x


class Encoder(nn.Cell):
    """Pixels (B, T, 3, H, W), T = 1 for an image or 4 a clip, to latents (B, 1 a clip, C, h, w)."""

    def __init__(self, config: VQConfig):
        super().__init__()
        width, latent = config.level_channels(-1), config.latent_channels
        self.conv_in = Conv2d(config.in_channels, config.base_channels, 3, pad=1)
        self.down_block = DownBlock(config)
        self.middle_block = MiddleBlock(width)
        self.norm_out = GroupNorm(width)
        self.conv_out = Conv2d(width, latent, 3, pad=1)
        self.time_conv = nn.CellList([TemporalConv(latent, 4, 2) for _ in range(2)])
        self.time_res_stack = nn.CellList([TemporalResnetBlock(latent) for _ in range(config.num_res_blocks)])

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


class Quantizer(nn.Cell):
    """The codebook: latents to the index of the nearest entry, and indices back to entries."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.embedding = _Codebook(config)
        self.multiply = ops.MatMul(transpose_b=True)
        self.argmin = ops.ArgMinWithValue(axis=1)

    def nearest_codes(self, latents_BTCHW: Tensor) -> Tensor:
        """int32 codes (B, T, H, W) in [0, K); ties go to the lowest index.

        |z − e|² without the term that is equal for all entries, as one product [z, 1]·[−2e, |e|²]ᵀ.
        """
        B, T, C, H, W = latents_BTCHW.shape
        latents = latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, C)
        codebook_KC = self.embedding.weight
        norms_K1 = (codebook_KC * codebook_KC).sum(axis=1, keepdims=True)
        latents = ops.concat((latents, ops.ones((B * T * H * W, 1), latents.dtype)), 1)
        distances = self.multiply(latents, ops.concat((codebook_KC * -2.0, norms_K1), 1))
        return self.argmin(distances)[0].reshape(B, T, H, W)

    def entries(self, codes_BTHW: Tensor) -> Tensor:
        """Codebook entries (B, T, C, H, W) of codes (B, T, H, W)."""
        return ops.gather(self.embedding.weight, codes_BTHW, 0).transpose(0, 1, 4, 2, 3)


class _Codebook(nn.Cell):
    def __init__(self, config: VQConfig):
        super().__init__()
        self.weight = parameter(config.codebook_size, config.embed_dim)


class Decoder(nn.Cell):
    """Latents and codebook entries (B, T, C, h, w) to pixels (B, 1 or 4·T, 3, H, W)."""

    def __init__(self, config: VQConfig):
        super().__init__()
        width, latent = config.level_channels(-1), config.latent_channels
        self.time_res_stack = nn.CellList([TemporalResnetBlock(latent) for _ in range(config.num_res_blocks)])
        self.time_conv = nn.CellList([TemporalConv(latent, 3, 1) for _ in range(2)])
        self.conv_in = Conv2d(latent, width, 3, pad=1)
        self.middle_block = MiddleBlock(width, config.embed_dim)
        self.up_block = UpBlock(config)
        self.norm_out = SpatialNorm(config.base_channels * config.channel_multiplier[0], config.embed_dim)
        self.conv_out = Conv2d(config.level_channels(0), config.out_channels, 3, pad=1)
        self.spatial_factor = config.spatial_factor

    def construct(self, latents_BTCHW: Tensor, entries_BTCHW: Tensor, is_image: bool) -> Tensor:
        x = ops.concat((latents_BTCHW, entries_BTCHW), 0)
        for block in self.time_res_stack:
            x = block(x)
        for conv in self.time_conv:
            x = conv(x if is_image else repeat_frames(x, 2))
        B, T, C, H, W = x.shape
        B = B // 2
        latents, entries = x[:B].reshape(B * T, C, H, W), x[B:].reshape(B * T, C, H, W)
        x = self.middle_block(self.conv_in(latents), entries)
        x = self.up_block(x, entries)
        x = self.norm_out(x, upsample_nearest(entries, self.spatial_factor))
        x = self.conv_out(ops.silu(x))
        return x.reshape(B, T, x.shape[1], x.shape[2], x.shape[3])


class VQModel(nn.Cell):
    """Encoder, quantizer and decoder with the convolutions between them."""

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = CausalConv3d(config.latent_channels, config.embed_dim, (3, 1))
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.latent_channels, (3, 1))

    def latents(self, pixels_BTCHW: Tensor) -> Tensor:
        """Latents (B, 1, C, h, w) of images (T = 1) or 4-frame clips, before quantisation."""
        return self.quant_conv(self.encoder(pixels_BTCHW))

    def reconstruct(self, entries_BTCHW: Tensor, is_image: bool) -> Tensor:
        """Pixels (B, 1 or 4·T, 3, H, W) of codebook entries; not clipped."""
        return self.decoder(self.post_quant_conv(entries_BTCHW), entries_BTCHW, is_image)

    @ms.jit(jit_level="O0")
    def encode(self, pixels_BTCHW: Tensor) -> Tensor:
        """int32 codes (B, 1, h, w) of images (T = 1) or 4-frame clips."""
        return self.quantize.nearest_codes(self.latents(pixels_BTCHW))

    @ms.jit(jit_level="O0")
    def decode(self, codes_BTHW: Tensor, is_image: bool) -> Tensor:
        """Pixels of codes (B, T, h, w): (B, 1, 3, H, W) for images, (B, 4·T, 3, H, W) for clips."""
        return self.reconstruct(self.quantize.entries(codes_BTHW), is_image)
