"""Building blocks of the vision tokenizer. `kernels` computes their operations.

Shape suffixes: B batch, T frames, C channels, H W grid, L = H·W positions.
Parameters carry the names of the Hugging Face checkpoint. Frames are folded into the batch wherever a layer is
spatial, so every layer but the temporal ones sees (B, C, H, W). `quantized` are the codebook entries of a grid of
codes, by which the decoder's norms are modulated.
Source: Emu3 vision tokenizer (BAAI), after MoVQGAN (Zheng et al. 2022, "MoVQ").
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from vq_stage.model.kernels import Kernels, Padding
from vq_stage.model.spatial_config import NORM_GROUPS

GROUP_NORM_EPS = 1e-6
BATCH_NORM_EPS = 1e-5


def parameter(*shape: int, fill: float = 0.0) -> Parameter:
    return Parameter(Tensor(np.full(shape, fill, np.float32)))


def repeat_frames(x_BTCHW: Tensor, times: int) -> Tensor:
    """Repeat every frame `times` times in a row: (B, T, …) to (B, T·times, …)."""
    B, T, C, H, W = x_BTCHW.shape
    return ops.tile(x_BTCHW.reshape(B, T, 1, C, H, W), (1, 1, times, 1, 1, 1)).reshape(B, T * times, C, H, W)


class Conv2d(nn.Cell):
    """Convolution with bias; `pad` is for all sides or (top, bottom, left, right)."""

    def __init__(self, kernels: Kernels, c_in: int, c_out: int, size: int, stride: int = 1, pad: Padding = 0):
        super().__init__()
        self.kernels = kernels
        self.weight = parameter(c_out, c_in, size, size)
        self.bias = parameter(c_out)
        self.stride = stride
        self.pad = pad

    def construct(self, x_BCHW: Tensor) -> Tensor:
        return self.kernels.conv2d(x_BCHW, self.weight, self.bias, self.stride, self.pad)


class ChannelLinear(nn.Cell):
    """Linear layer over channels, the same as a 1×1 convolution."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.kernels = kernels
        self.weight = parameter(channels, channels)
        self.bias = parameter(channels)

    def construct(self, x_BCL: Tensor) -> Tensor:
        return self.kernels.channel_linear(x_BCL, self.weight, self.bias)


class GroupNorm(nn.Cell):
    """Group normalization (Wu and He 2018) over 32 groups; ignores `quantized`, which SpatialNorm needs."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.weight = parameter(channels, fill=1.0)
        self.bias = parameter(channels)
        self.group_norm = kernels.GroupNorm(NORM_GROUPS, GROUP_NORM_EPS)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        return self.group_norm(x_BCHW, self.weight, self.bias)


class SpatialNorm(nn.Cell):
    """Group normalization, scaled and shifted at every position by the quantized latents (MoVQ).

    `quantized_BCHW` must already be upsampled to the size of x.
    """

    def __init__(self, kernels: Kernels, channels: int, quantized_channels: int):
        super().__init__()
        self.norm_layer = NormWeights(channels)
        self.conv_y = Conv2d(kernels, quantized_channels, channels, 1)
        self.conv_b = Conv2d(kernels, quantized_channels, channels, 1)
        self.spatial_norm = kernels.SpatialNorm(NORM_GROUPS, GROUP_NORM_EPS)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor) -> Tensor:
        norm = self.norm_layer.weight, self.norm_layer.bias
        scale, shift = (self.conv_y.weight, self.conv_y.bias), (self.conv_b.weight, self.conv_b.bias)
        return self.spatial_norm(x_BCHW, quantized_BCHW, norm, scale, shift)


class NormWeights(nn.Cell):
    """Holds `norm_layer.weight` and `norm_layer.bias`."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = parameter(channels, fill=1.0)
        self.bias = parameter(channels)


def make_norm(kernels: Kernels, channels: int, quantized_channels: int | None) -> nn.Cell:
    """Return the encoder's norm, or the decoder's if `quantized_channels` is given."""
    if quantized_channels is None:
        return GroupNorm(kernels, channels)
    return SpatialNorm(kernels, channels, quantized_channels)


class ResnetBlock(nn.Cell):
    """norm → SiLU → conv, twice, added to the input."""

    def __init__(self, kernels: Kernels, c_in: int, c_out: int, quantized_channels: int | None = None):
        super().__init__()
        self.norm1 = make_norm(kernels, c_in, quantized_channels)
        self.conv1 = Conv2d(kernels, c_in, c_out, 3, pad=1)
        self.norm2 = make_norm(kernels, c_out, quantized_channels)
        self.conv2 = Conv2d(kernels, c_out, c_out, 3, pad=1)
        self.changes_width = c_in != c_out
        if self.changes_width:
            self.nin_shortcut = Conv2d(kernels, c_in, c_out, 1)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        hidden = self.conv1(ops.silu(self.norm1(x_BCHW, quantized_BCHW)))
        hidden = self.conv2(ops.silu(self.norm2(hidden, quantized_BCHW)))
        return hidden + (self.nin_shortcut(x_BCHW) if self.changes_width else x_BCHW)


class Attention(nn.Cell):
    """Single-head attention between all positions of a frame."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.kernels = kernels
        self.q_proj = ChannelLinear(kernels, channels)
        self.k_proj = ChannelLinear(kernels, channels)
        self.v_proj = ChannelLinear(kernels, channels)
        self.out_proj = ChannelLinear(kernels, channels)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        x_BCL = x_BCHW.reshape(B, C, H * W)
        q, k, v = self.q_proj(x_BCL), self.k_proj(x_BCL), self.v_proj(x_BCL)
        attended_BCL = self.kernels.attention(q, k, v, self.q_proj.weight.dtype)
        return self.out_proj(attended_BCL).reshape(B, C, H, W)


class ResolutionLevel(nn.Cell):
    """The residual blocks of one resolution, each followed by attention if `has_attention`.

    `widths` are the numbers of channels before, between and after the blocks.
    """

    def __init__(self, kernels: Kernels, widths: list[int], has_attention: bool, quantized_channels: int | None = None):
        super().__init__()
        attended = widths[1:] if has_attention else []
        self.block = nn.CellList([ResnetBlock(kernels, a, b, quantized_channels) for a, b in pairwise(widths)])
        self.attn = nn.CellList([Attention(kernels, b) for b in attended])
        self.attn_norms = nn.CellList([make_norm(kernels, b, quantized_channels) for b in attended])
        self.has_attention = has_attention

    def run_blocks(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        x = x_BCHW
        for i in range(len(self.block)):
            x = self.block[i](x, quantized_BCHW)
            if self.has_attention:
                x = x + self.attn[i](self.attn_norms[i](x, quantized_BCHW))
        return x


class MiddleBlock(nn.Cell):
    """Residual block, attention, residual block, at the lowest resolution."""

    def __init__(self, kernels: Kernels, channels: int, quantized_channels: int | None = None):
        super().__init__()
        self.block_1 = ResnetBlock(kernels, channels, channels, quantized_channels)
        self.attn_norm = make_norm(kernels, channels, quantized_channels)
        self.attn_1 = Attention(kernels, channels)
        self.block_2 = ResnetBlock(kernels, channels, channels, quantized_channels)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor | None = None) -> Tensor:
        x = self.block_1(x_BCHW, quantized_BCHW)
        x = x + self.attn_1(self.attn_norm(x, quantized_BCHW))
        return self.block_2(x, quantized_BCHW)


class Downsample(nn.Cell):
    """Halve both sides with a strided convolution; pads right and bottom only."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.conv = Conv2d(kernels, channels, channels, 3, stride=2, pad=(0, 1, 0, 1))

    def construct(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(x_BCHW)


class Upsample(nn.Cell):
    """Double both sides by nearest neighbor, then convolve 3×3."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.kernels = kernels
        self.conv = Conv2d(kernels, channels, channels, 3, pad=1)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        return self.kernels.upsample2x_conv(x_BCHW, self.conv.weight, self.conv.bias)


class CausalConv3d(nn.Cell):
    """Convolution over frames that sees the past only; the kernel has `taps` frames of `size` × `size` pixels."""

    def __init__(self, kernels: Kernels, c_in: int, c_out: int, taps: int, size: int, stride: int = 1):
        super().__init__()
        self.kernels = kernels
        self.conv = Conv3dWeights(c_in, c_out, taps, size)
        self.stride = stride

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        return self.kernels.causal_conv3d(x_BTCHW, self.conv.weight, self.conv.bias, self.stride)


class Conv3dWeights(nn.Cell):
    """Holds `conv.weight` and `conv.bias` in the checkpoint's shape."""

    def __init__(self, c_in: int, c_out: int, taps: int, size: int):
        super().__init__()
        self.weight = parameter(c_out, c_in, taps, size, size)
        self.bias = parameter(c_out)


class TemporalConv(nn.Cell):
    """A causal convolution that halves the number of frames (taps 4, stride 2) or keeps it (taps 3), then SiLU."""

    def __init__(self, kernels: Kernels, channels: int, taps: int, stride: int):
        super().__init__()
        self.conv = CausalConv3d(kernels, channels, channels, taps, 3, stride)

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        return ops.silu(self.conv(x_BTCHW))


class FrozenBatchNorm(nn.Cell):
    """Batch normalization by stored statistics, as the published model runs it."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = parameter(channels, fill=1.0)
        self.bias = parameter(channels)
        self.running_mean = parameter(channels)
        self.running_var = parameter(channels, fill=1.0)
        self.running_mean.requires_grad = False
        self.running_var.requires_grad = False

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        scale_C = self.weight / ops.sqrt(self.running_var + BATCH_NORM_EPS)
        shift_C = self.bias - self.running_mean * scale_C
        return x_BTCHW * scale_C.reshape(1, 1, -1, 1, 1) + shift_C.reshape(1, 1, -1, 1, 1)


class TemporalResnetBlock(nn.Cell):
    """norm → SiLU → causal convolution, twice, added to the input."""

    def __init__(self, kernels: Kernels, channels: int):
        super().__init__()
        self.norm1 = FrozenBatchNorm(channels)
        self.conv1 = CausalConv3d(kernels, channels, channels, 3, 3)
        self.norm2 = FrozenBatchNorm(channels)
        self.conv2 = CausalConv3d(kernels, channels, channels, 3, 3)

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        hidden = self.conv1(ops.silu(self.norm1(x_BTCHW)))
        return x_BTCHW + self.conv2(ops.silu(self.norm2(hidden)))


WEIGHTED_CELLS = (Conv2d, ChannelLinear, Conv3dWeights)  # compute in the type of their weights
