"""The spatial layers of encoder and decoder, which all families of tokenizers share; frames are samples of the batch.

Shape suffixes: B batch, C channels, H W pixels or codes (lower case h w where both occur).
Source: VQGAN (Esser et al. 2021); with modulated norms in the decoder MoVQ (Zheng et al. 2022).
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from vq_stage.model.kernels import Kernels
from vq_stage.model.layers import Conv2d, Downsample, GroupNorm, MiddleBlock, ResolutionLevel, Upsample, make_norm
from vq_stage.model.spatial_config import SpatialConfig


class SpatialEncoder(nn.Cell):
    """Frames (B, 3, H, W) to features (B, C, h, w)."""

    def __init__(self, config: SpatialConfig, kernels: Kernels):
        super().__init__()
        width = config.level_channels(-1)
        self.conv_in = Conv2d(kernels, config.in_channels, config.base_channels, 3, pad=1)
        self.down_block = DownBlock(config, kernels)
        self.middle_block = MiddleBlock(kernels, width)
        self.norm_out = GroupNorm(kernels, width)
        self.conv_out = Conv2d(kernels, width, config.latent_channels, 3, pad=1)

    def encode_frames(self, frames_BCHW: Tensor) -> Tensor:
        x = self.middle_block(self.down_block(self.conv_in(frames_BCHW)))
        return self.conv_out(ops.silu(self.norm_out(x)))


class DownBlock(nn.Cell):
    """The encoder's levels, from full to lowest resolution."""

    def __init__(self, config: SpatialConfig, kernels: Kernels):
        super().__init__()
        self.down = nn.CellList([DownLevel(config, kernels, level) for level in range(config.levels)])

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW
        for level in self.down:
            x = level(x)
        return x


class DownLevel(ResolutionLevel):
    """One level of the encoder: its blocks, then downsampling except at the lowest resolution."""

    def __init__(self, config: SpatialConfig, kernels: Kernels, level: int):
        c_in = config.level_channels(level - 1) if level else config.base_channels
        c_out = config.level_channels(level)
        super().__init__(kernels, [c_in] + [c_out] * config.num_res_blocks, level in config.attention_levels)
        self.is_last = level == config.levels - 1
        if not self.is_last:
            self.downsample = Downsample(kernels, c_out)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        x = self.run_blocks(x_BCHW)
        return x if self.is_last else self.downsample(x)


class SpatialDecoder(nn.Cell):
    """Features (B, C, h, w) to frames (B, 3, H, W).

    With `quantized_channels`, the norms are modulated by quantized latents of that many channels.
    """

    def __init__(self, config: SpatialConfig, kernels: Kernels, quantized_channels: int | None = None):
        super().__init__()
        width = config.level_channels(-1)
        self.kernels = kernels
        self.spatial_factor = config.spatial_factor
        self.conv_in = Conv2d(kernels, config.latent_channels, width, 3, pad=1)
        self.middle_block = MiddleBlock(kernels, width, quantized_channels)
        self.up_block = UpBlock(config, kernels, quantized_channels)
        self.norm_out = make_norm(kernels, config.level_channels(0), quantized_channels)
        self.conv_out = Conv2d(kernels, config.level_channels(0), config.out_channels, 3, pad=1)

    def decode_frames(self, features_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        x = self.middle_block(self.conv_in(features_BCHW), quantized_BCHW)
        x = self.up_block(x, quantized_BCHW)
        if quantized_BCHW is not None:
            quantized_BCHW = self.kernels.upsample_nearest(quantized_BCHW, self.spatial_factor)
        return self.conv_out(ops.silu(self.norm_out(x, quantized_BCHW)))


class UpBlock(nn.Cell):
    """The decoder's levels, from lowest to full resolution; they are stored in the opposite order."""

    def __init__(self, config: SpatialConfig, kernels: Kernels, quantized_channels: int | None):
        super().__init__()
        self.levels = config.levels
        self.up = nn.CellList([UpLevel(config, kernels, quantized_channels, level) for level in range(self.levels)])

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        x = x_BCHW
        for i in range(self.levels):
            x = self.up[self.levels - 1 - i](x, quantized_BCHW)
        return x


class UpLevel(ResolutionLevel):
    """One level of the decoder: its blocks, then upsampling except at full resolution."""

    def __init__(self, config: SpatialConfig, kernels: Kernels, quantized_channels: int | None, level: int):
        c_in, c_out = config.level_channels(min(level + 1, config.levels - 1)), config.level_channels(level)
        widths = [c_in] + [c_out] * (config.num_res_blocks + 1)
        super().__init__(kernels, widths, level in config.attention_levels, quantized_channels)
        self.kernels = kernels
        self.quantized_scale = 2 ** (config.levels - 1 - level)
        self.is_last = level == 0
        if not self.is_last:
            self.upsample = Upsample(kernels, c_out)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        if quantized_BCHW is not None:
            quantized_BCHW = self.kernels.upsample_nearest(quantized_BCHW, self.quantized_scale)
        x = self.run_blocks(x_BCHW, quantized_BCHW)
        return x if self.is_last else self.upsample(x)
