"""Building blocks of the vision tokenizer, on operators that Ascend and CPU both have.

Shape suffixes: B batch, T frames, C channels, H W grid, L = H*W positions, G groups.
Parameters carry the names of the Hugging Face checkpoint. Frames are folded into the batch wherever a
layer is spatial, so everything but the causal convolution sees (B, C, H, W).
Source: Emu3 vision tokenizer (BAAI), MoVQGAN.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from vq_stage.model.config import GROUPS

GROUP_NORM_EPS = 1e-6
BATCH_NORM_EPS = 1e-5


def parameter(*shape: int, fill: float = 0.0) -> Parameter:
    return Parameter(Tensor(np.full(shape, fill, np.float32)))


class Conv2d(nn.Cell):
    """Convolution with bias. `pad` is (top, bottom, left, right) or one number for all sides."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, pad: int | tuple[int, ...] = 0):
        super().__init__()
        self.weight = parameter(c_out, c_in, kernel, kernel)
        self.bias = parameter(c_out)
        self.convolve = ops.Conv2D(c_out, kernel, pad_mode="pad", pad=pad, stride=stride)
        self.add_bias = ops.BiasAdd()

    def construct(self, x_BCHW: Tensor) -> Tensor:
        return self.add_bias(self.convolve(x_BCHW, self.weight), self.bias)


class Linear1x1(nn.Cell):
    """Linear layer over channels, applied from the left so that (B, C, L) needs no transpose."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = parameter(channels, channels)
        self.bias = parameter(channels)
        self.multiply = ops.BatchMatMul()

    def construct(self, x_BCL: Tensor) -> Tensor:
        batch, channels, _ = x_BCL.shape
        weight_BCC = ops.tile(self.weight.reshape(1, channels, channels), (batch, 1, 1))
        return self.multiply(weight_BCC, x_BCL) + self.bias.reshape(1, channels, 1)


def channel_affine(x_BCHW: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """x·scale + shift for every sample and channel; inference-mode BatchNorm is the fastest kernel for it."""
    B, C, H, W = x_BCHW.shape
    mean, variance = ops.zeros((B * C,), x_BCHW.dtype), ops.ones((B * C,), x_BCHW.dtype)
    normalise = ops.BatchNorm(is_training=False, epsilon=1e-12)
    y = normalise(x_BCHW.reshape(1, B * C, H, W), scale_BC.reshape(-1), shift_BC.reshape(-1), mean, variance)[0]
    return y.reshape(B, C, H, W)


def row_means(x_BCHW: Tensor) -> Tensor:
    """Mean over W, shape (B, C, H), as a product with a constant vector: faster than a reduction kernel."""
    B, C, H, W = x_BCHW.shape
    return ops.MatMul()(x_BCHW.reshape(-1, W), ops.ones((W, 1), x_BCHW.dtype)).reshape(B, C, H) * (1.0 / W)


class NormalizeGroups(nn.Cell):
    """Group normalisation with its own gradient, both made of matrix products and channel-wise affines.

    The variance is the mean variance within rows plus the variance of the row means, which avoids the
    cancellation of E[x²] − E[x]² over a whole group.
    """

    def __init__(self, groups: int = GROUPS, eps: float = GROUP_NORM_EPS):
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.mean = ops.ReduceMean()
        self.mean_kept = ops.ReduceMean(keep_dims=True)
        self.sum = ops.ReduceSum()
        self.tile = ops.Tile()

    def statistics(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and reciprocal standard deviation of every group, spread to shape (B, C)."""
        B, C, _, _ = x_BCHW.shape
        mean_rows = row_means(x_BCHW).reshape(B * self.groups, -1)
        square_rows = row_means(x_BCHW * x_BCHW).reshape(B * self.groups, -1)
        mean_BG = self.mean_kept(mean_rows, 1)
        offset_rows = mean_rows - mean_BG
        within_rows = square_rows - mean_rows * mean_rows
        variance_BG = self.mean_kept(within_rows + offset_rows * offset_rows, 1)
        rstd_BG = 1.0 / ops.sqrt(variance_BG + self.eps)
        return self.spread(mean_BG, B, C), self.spread(rstd_BG, B, C)

    def spread(self, value_BG: Tensor, B: int, C: int) -> Tensor:
        return self.tile(value_BG.reshape(B * self.groups, 1), (1, C // self.groups)).reshape(B, C)

    def construct(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        mean_BC, rstd_BC = self.statistics(x_BCHW)
        scale_BC = rstd_BC * weight_C
        return channel_affine(x_BCHW, scale_BC, bias_C - mean_BC * scale_BC)

    def bprop(self, x_BCHW, weight_C, bias_C, out, dy_BCHW):
        B, C, _, _ = x_BCHW.shape
        mean_BC, rstd_BC = self.statistics(x_BCHW)
        mean_dy_BC = self.mean(row_means(dy_BCHW), 2)
        mean_dy_xhat_BC = (self.mean(row_means(dy_BCHW * x_BCHW), 2) - mean_BC * mean_dy_BC) * rstd_BC
        a_BC = self.spread(self.mean((mean_dy_BC * weight_C).reshape(B * self.groups, -1), 1), B, C)
        b_BC = self.spread(self.mean((mean_dy_xhat_BC * weight_C).reshape(B * self.groups, -1), 1), B, C)
        slope_BC = -rstd_BC * rstd_BC * b_BC
        dx = channel_affine(dy_BCHW, rstd_BC * weight_C, -rstd_BC * a_BC - slope_BC * mean_BC)
        dx = dx + channel_affine(x_BCHW, slope_BC, ops.zeros_like(slope_BC))
        positions = x_BCHW.shape[2] * x_BCHW.shape[3]
        return dx, self.sum(mean_dy_xhat_BC, 0) * positions, self.sum(mean_dy_BC, 0) * positions


class GroupNorm(nn.Cell):
    """Group normalisation over 32 groups; ignores the latents that SpatialNorm needs."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = parameter(channels, fill=1.0)
        self.bias = parameter(channels)
        self.normalize = NormalizeGroups()

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor | None = None) -> Tensor:
        return self.normalize(x_BCHW, self.weight, self.bias)


class SpatialNorm(nn.Cell):
    """Group normalisation modulated at every position by the quantised latents (MoVQ).

    `latents_BCHW` are already upsampled to the size of x.
    """

    def __init__(self, channels: int, latent_channels: int):
        super().__init__()
        self.norm_layer = GroupNorm(channels)
        self.conv_y = Conv2d(latent_channels, channels, 1)
        self.conv_b = Conv2d(latent_channels, channels, 1)

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor) -> Tensor:
        return self.norm_layer(x_BCHW) * self.conv_y(latents_BCHW) + self.conv_b(latents_BCHW)


def make_norm(channels: int, latent_channels: int | None) -> nn.Cell:
    return GroupNorm(channels) if latent_channels is None else SpatialNorm(channels, latent_channels)


class ResnetBlock(nn.Cell):
    """norm → SiLU → conv, twice, added to the input."""

    def __init__(self, c_in: int, c_out: int, latent_channels: int | None = None):
        super().__init__()
        self.norm1 = make_norm(c_in, latent_channels)
        self.conv1 = Conv2d(c_in, c_out, 3, pad=1)
        self.norm2 = make_norm(c_out, latent_channels)
        self.conv2 = Conv2d(c_out, c_out, 3, pad=1)
        self.changes_width = c_in != c_out
        if self.changes_width:
            self.nin_shortcut = Conv2d(c_in, c_out, 1)

    def construct(self, x_BCHW: Tensor, latents_BCHW: Tensor | None = None) -> Tensor:
        hidden = self.conv1(ops.silu(self.norm1(x_BCHW, latents_BCHW)))
        hidden = self.conv2(ops.silu(self.norm2(hidden, latents_BCHW)))
        return hidden + (self.nin_shortcut(x_BCHW) if self.changes_width else x_BCHW)


class Attention(nn.Cell):
    """Single-head attention of every position to every position of the same frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.q_proj = Linear1x1(channels)
        self.k_proj = Linear1x1(channels)
        self.v_proj = Linear1x1(channels)
        self.out_proj = Linear1x1(channels)
        self.scale = channels**-0.5
        self.scores = ops.BatchMatMul(transpose_a=True)
        self.weigh = ops.BatchMatMul(transpose_b=True)

    def construct(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        x_BCL = x_BCHW.reshape(B, C, H * W)
        scores_BLL = self.scores(self.q_proj(x_BCL) * self.scale, self.k_proj(x_BCL))
        attended_BCL = self.weigh(self.v_proj(x_BCL), ops.softmax(scores_BLL, -1))
        return self.out_proj(attended_BCL).reshape(B, C, H, W)


class Downsample(nn.Cell):
    """Halves both sides; pads right and bottom only."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, pad=(0, 1, 0, 1))

    def construct(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(x_BCHW)


class Upsample(nn.Cell):
    """Doubles both sides by nearest neighbour, then convolves 3×3 — without building the doubled picture.

    Every output pixel of even or odd row and column sees only 2×2 source pixels, so one 2×2 convolution with
    the kernel's taps summed up four ways gives the same sums for 4/9 of the multiplications.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.conv = Conv2d(channels, channels, 3, pad=1)
        self.convolve = ops.Conv2D(4 * channels, 2, pad_mode="pad", pad=1)
        self.add_bias = ops.BiasAdd()

    def construct(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        phases = self.convolve(x_BCHW, self.phase_weight()).reshape(B, 2, 2, C, H + 1, W + 1)
        top = ops.stack((phases[:, 0, 0, :, :H, :W], phases[:, 0, 1, :, :H, 1:]), 4)
        bottom = ops.stack((phases[:, 1, 0, :, 1:, :W], phases[:, 1, 1, :, 1:, 1:]), 4)
        return self.add_bias(ops.stack((top, bottom), 3).reshape(B, C, 2 * H, 2 * W), self.conv.bias)

    def phase_weight(self) -> Tensor:
        """Kernels (4·C, C, 2, 2) for (even, odd) rows × (even, odd) columns."""
        first, middle, last = self.conv.weight[:, :, 0], self.conv.weight[:, :, 1], self.conv.weight[:, :, 2]
        rows = ops.stack((ops.stack((first, middle + last), 2), ops.stack((first + middle, last), 2)), 0)
        first, middle, last = rows[..., 0], rows[..., 1], rows[..., 2]
        taps = ops.stack((ops.stack((first, middle + last), 4), ops.stack((first + middle, last), 4)), 1)
        return taps.reshape(4 * self.channels, self.channels, 2, 2)


def upsample_nearest(x_BCHW: Tensor, factor: int) -> Tensor:
    _, _, H, W = x_BCHW.shape
    return ops.interpolate(x_BCHW, size=(H * factor, W * factor), mode="nearest")


class CausalConv3d(nn.Cell):
    """Convolution over frames that sees the past only: two zero frames stand before the first.

    Written as a 2-D convolution over the taps of one output frame laid side by side as channels, which
    needs no 3-D kernel and no transpose.
    """

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int], stride: int = 1):
        super().__init__()
        self.taps, size = kernel
        self.stride = stride
        self.conv = _Conv3dWeights(c_in, c_out, self.taps, size)
        self.convolve = ops.Conv2D(c_out, size, pad_mode="pad", pad=size // 2)
        self.add_bias = ops.BiasAdd()

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        B, T, C, H, W = x_BTCHW.shape
        x = ops.concat((ops.zeros((B, 2, C, H, W), x_BTCHW.dtype), x_BTCHW), 1)
        T_out = (T + 2 - self.taps) // self.stride + 1
        windows: tuple[Tensor, ...] = ()
        for t in range(T_out):
            start = t * self.stride
            windows += (x[:, start : start + self.taps].reshape(B, 1, self.taps * C, H, W),)
        x = ops.concat(windows, 1).reshape(B * T_out, self.taps * C, H, W)
        c_out, _, _, size, _ = self.conv.weight.shape
        weight = self.conv.weight.transpose(0, 2, 1, 3, 4).reshape(c_out, self.taps * C, size, size)
        return self.add_bias(self.convolve(x, weight), self.conv.bias).reshape(B, T_out, c_out, H, W)


class _Conv3dWeights(nn.Cell):
    """Holds `conv.weight` and `conv.bias` in the checkpoint's shape."""

    def __init__(self, c_in: int, c_out: int, taps: int, size: int):
        super().__init__()
        self.weight = parameter(c_out, c_in, taps, size, size)
        self.bias = parameter(c_out)


class TemporalConv(nn.Cell):
    """A causal convolution that halves the frames (taps 4, stride 2) or keeps them (taps 3)."""

    def __init__(self, channels: int, taps: int, stride: int):
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (taps, 3), stride)

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        return ops.silu(self.conv(x_BTCHW))


class FrozenBatchNorm(nn.Cell):
    """Batch normalisation by stored statistics, as the published model runs it."""

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

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = FrozenBatchNorm(channels)
        self.conv1 = CausalConv3d(channels, channels, (3, 3))
        self.norm2 = FrozenBatchNorm(channels)
        self.conv2 = CausalConv3d(channels, channels, (3, 3))

    def construct(self, x_BTCHW: Tensor) -> Tensor:
        hidden = self.conv1(ops.silu(self.norm1(x_BTCHW)))
        return x_BTCHW + self.conv2(ops.silu(self.norm2(hidden)))


def repeat_frames(x_BTCHW: Tensor, times: int) -> Tensor:
    """Every frame `times` times in a row, (B, T, …) → (B, T·times, …)."""
    B, T, C, H, W = x_BTCHW.shape
    return ops.tile(x_BTCHW.reshape(B, T, 1, C, H, W), (1, 1, times, 1, 1, 1)).reshape(B, T * times, C, H, W)
