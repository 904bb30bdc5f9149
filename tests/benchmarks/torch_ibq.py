"""The published architecture of Emu3.5's vision tokenizer in PyTorch, the peer of the benchmark.

Written from the description in docs/emu35.md, with PyTorch's own modules for every operation that has one, under the
names of the published checkpoint.
Shape suffixes: B batch, C channels, H W grid, L = H·W positions, K codebook entries.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq_stage.model.ibq_config import IbqConfig

GROUPS, EPS = 32, 1e-6


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, EPS)


class Block(nn.Module):
    """Residual block."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Attention of one head between all positions, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        normal = self.norm(x_BCHW)
        q_BCL, k_BCL, v_BCL = (layer(normal).flatten(2) for layer in (self.q, self.k, self.v))
        weights_BLL = torch.softmax(q_BCL.transpose(1, 2) @ k_BCL * q_BCL.shape[1] ** -0.5, 2)
        return x_BCHW + self.proj_out((v_BCL @ weights_BLL.transpose(1, 2)).view_as(x_BCHW))


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            Block(channels, channels),
            Attention(channels),
            Block(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resampling(nn.Module):
    """Holds `conv`: the downsampling of the encoder, or the convolution after doubling of the decoder."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=0 if stride == 2 else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride == (2, 2):
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, each followed by attention if the level has it; `resampled` is down, up or None."""

    def __init__(self, widths: list[int], has_attention: bool, resampled: str | None):
        super().__init__()
        self.block = nn.ModuleList([Block(a, b) for a, b in pairwise(widths)])
        self.attn = nn.ModuleList([Attention(b) for b in widths[1:]] if has_attention else [])
        if resampled == "down":
            self.downsample = Resampling(widths[-1], 2)
        elif resampled == "up":
            self.upsample = Resampling(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        resample = getattr(self, "downsample", getattr(self, "upsample", None))
        return resample(x) if resample is not None else x


class Encoder(nn.Module):
    def __init__(self, config: IbqConfig):
        super().__init__()
        channels = [config.base_channels, *(config.level_channels(level) for level in range(config.levels))]
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for level, (c_in, c_out) in enumerate(pairwise(channels)):
            widths = [c_in] + [c_out] * config.num_res_blocks
            is_last = level == config.levels - 1
            self.down.append(Level(widths, level in config.attention_levels, None if is_last else "down"))
        self.mid, self.norm_out = Middle(channels[-1]), norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: IbqConfig):
        super().__init__()
        channels = [*(config.level_channels(level) for level in range(config.levels)), config.level_channels(-1)]
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1])
        self.up = nn.ModuleList()
        for level in range(config.levels):
            widths = [channels[level + 1]] + [channels[level]] * (config.num_res_blocks + 1)
            self.up.append(Level(widths, level in config.attention_levels, "up" if level else None))
        self.norm_out, self.conv_out = norm(channels[0]), nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(functional.silu(self.norm_out(x)))


class Codebook(nn.Module):
    def __init__(self, config: IbqConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.embed_dim)


class TorchIbq(nn.Module):
    """The whole tokenizer: pixels in [-1, 1] (B, 3, H, W) to codes (B, h, w), and back."""

    def __init__(self, config: IbqConfig):
        super().__init__()
        self.encoder, self.decoder, self.quantize = Encoder(config), Decoder(config), Codebook(config)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        latents_BCHW = self.quant_conv(self.encoder(pixels_BCHW))
        logits_BKHW = torch.einsum("bchw,kc->bkhw", latents_BCHW, self.quantize.embedding.weight)
        return logits_BKHW.argmax(1)

    def decode(self, codes_BHW: Tensor) -> Tensor:
        entries_BCHW = self.quantize.embedding(codes_BHW).permute(0, 3, 1, 2).contiguous()
        return self.decoder(self.post_quant_conv(entries_BCHW))
