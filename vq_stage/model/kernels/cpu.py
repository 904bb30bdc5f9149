"""The forms that run fast on CPU. All operators used exist on Ascend too, where `--kernels plain` selects these forms.

Shape suffixes: B batch, T frames, C channels, H W grid, L positions, G groups, N latents, K codebook entries
or, in `SpatialNorm`, channels of the latents and a constant.
`Kernels` says what each function computes; each gives the textbook result up to rounding, gradients included.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from vq_stage.model.kernels import Affine, Padding, cpu_winograd

MAX_PRODUCTS = 1 << 25  # of latents and codebook entries at once: 128 MiB
_TAP_SUMS = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], np.float32)  # of w₀, w₁ and w₂ in one direction


def conv2d(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1, pad: Padding = 0) -> Tensor:
    x_BCHW = x_BCHW.astype(weight.dtype)
    size, rows = weight.shape[2], x_BCHW.shape[2]
    if (size, stride, pad) == (3, 1, 1) and cpu_winograd.pays_off(rows, weight):
        return cpu_winograd.conv3x3(x_BCHW, weight, bias_C)
    y_BCHW = ops.Conv2D(weight.shape[0], size, pad_mode="pad", pad=pad, stride=stride)(x_BCHW, weight)
    return ops.BiasAdd()(y_BCHW, bias_C).astype(ms.float32)


def causal_conv3d(x_BTCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1) -> Tensor:
    """A 2-D convolution over the taps of each output frame, laid side by side as channels.

    It needs no 3-D kernel and no transpose of x.
    """
    B, T, C, H, W = x_BTCHW.shape
    c_out, _, taps, size, _ = weight.shape
    x = ops.concat((ops.zeros((B, 2, C, H, W), x_BTCHW.dtype), x_BTCHW), 1)
    T_out = (T + 2 - taps) // stride + 1
    windows: tuple[Tensor, ...] = ()
    for t in range(T_out):
        start = t * stride
        windows += (x[:, start : start + taps].reshape(B, 1, taps * C, H, W),)
    x = ops.concat(windows, 1).reshape(B * T_out, taps * C, H, W)
    weight = weight.transpose(0, 2, 1, 3, 4).reshape(c_out, taps * C, size, size)
    return conv2d(x, weight, bias_C, pad=size // 2).reshape(B, T_out, c_out, H, W)


def upsample_nearest(x_BCHW: Tensor, factor: int) -> Tensor:
    _, _, H, W = x_BCHW.shape
    return ops.interpolate(x_BCHW, size=(H * factor, W * factor), mode="nearest")


def upsample2x_conv(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
    """One transposed convolution with stride 2: the doubled image is never built, and 4/9 of the products suffice.

    An output pixel of even or odd row and column sees only 2×2 input pixels, by taps that are sums of the kernel's.
    """
    B, C, H, W = x_BCHW.shape
    transposed = ops.Conv2DTranspose(C, 4, pad_mode="pad", pad=1, stride=2)
    y_BCHW = transposed(x_BCHW.astype(weight.dtype), _stride_2_weight(weight), (B, C, 2 * H, 2 * W))
    return ops.BiasAdd()(y_BCHW, bias_C).astype(ms.float32)


def _stride_2_weight(weight: Tensor) -> Tensor:
    """Sum the taps of a kernel (C, C, 3, 3): (C_in, C_out, 4, 4), with [w₂, w₁ + w₂, w₀ + w₁, w₀] in each direction.

    One product with a constant matrix does it, in a small fraction of the convolution's time.
    """
    C = weight.shape[0]
    sums = Tensor(np.kron(_TAP_SUMS, _TAP_SUMS), weight.dtype)
    return ops.MatMul()(weight.transpose(1, 0, 2, 3).reshape(C * C, 9), sums).reshape(C, C, 4, 4)


def channel_linear(x_BCL: Tensor, weight_CC: Tensor, bias_C: Tensor) -> Tensor:
    """The weight multiplies from the left, so (B, C, L) needs no transpose."""
    B, C, _ = x_BCL.shape
    weight_BCC = ops.tile(weight_CC.reshape(1, C, C), (B, 1, 1))
    y_BCL = ops.BatchMatMul()(weight_BCC, x_BCL.astype(weight_CC.dtype)) + bias_C.reshape(1, C, 1)
    return y_BCL.astype(ms.float32)


def attention(q_BCL: Tensor, k_BCL: Tensor, v_BCL: Tensor, dtype: ms.Type) -> Tensor:
    scale = q_BCL.shape[1] ** -0.5
    scores_BLL = ops.BatchMatMul(transpose_a=True)((q_BCL * scale).astype(dtype), k_BCL.astype(dtype))
    weights_BLL = ops.softmax(scores_BLL.astype(ms.float32), -1)
    return ops.BatchMatMul(transpose_b=True)(v_BCL.astype(dtype), weights_BLL.astype(dtype)).astype(ms.float32)


def nearest_codes(latents_BTCHW: Tensor, codebook_KC: Tensor) -> Tensor:
    """|z − e|² without |z|², which is the same for all entries, as one matrix product [z, 1]·[−2e, |e|²]ᵀ.

    The textbook form spends most of its time on elementwise passes over the K columns.
    """
    B, T, _, H, W = latents_BTCHW.shape
    latents_NC = latent_rows(latents_BTCHW)
    norms_K1 = (codebook_KC * codebook_KC).sum(axis=1, keepdims=True)
    augmented = ops.concat((latents_NC, ops.ones((B * T * H * W, 1), latents_NC.dtype)), 1)
    distances_NK = ops.MatMul(transpose_b=True)(augmented, ops.concat((codebook_KC * -2.0, norms_K1), 1))
    return ops.ArgMinWithValue(axis=1)(distances_NK)[0].reshape(B, T, H, W)


def argmax_codes(latents_BTCHW: Tensor, codebook_KC: Tensor) -> Tensor:
    B, T, _, H, W = latents_BTCHW.shape
    rows = max(1, MAX_PRODUCTS // codebook_KC.shape[0])
    return argmax_of_parts(ops.split(latent_rows(latents_BTCHW), rows), codebook_KC).reshape(B, T, H, W)


def latent_rows(latents_BTCHW: Tensor) -> Tensor:
    """Return latents as rows (N, C)."""
    return latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, latents_BTCHW.shape[2])


def argmax_of_parts(parts_NC: tuple[Tensor, ...], codebook_KC: Tensor) -> Tensor:
    """Return the index of the largest product of every row of all parts, one part after another."""
    codes: tuple[Tensor, ...] = ()
    for part_NC in parts_NC:
        products_NK = ops.MatMul(transpose_b=True)(part_NC, codebook_KC)
        codes += (ops.ArgMaxWithValue(axis=1)(products_NK)[0],)
    return ops.concat(codes, 0)


def lookup(codes_BTHW: Tensor, codebook_KC: Tensor) -> Tensor:
    return ops.gather(codebook_KC, codes_BTHW, 0)


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return ops.square(x - y).mean()


class GroupNorm(nn.Cell):
    """Normalization and its gradient, both composed of matrix products and channel-wise affine maps.

    The variance is the mean variance within rows plus the variance of the row means, which avoids the cancellation
    in E[x²] − E[x]² over a whole group.
    """

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.mean = ops.ReduceMean()
        self.mean_keepdims = ops.ReduceMean(keep_dims=True)
        self.sum = ops.ReduceSum()
        self.tile = ops.Tile()

    def construct(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        mean_BC, rstd_BC = self.statistics(x_BCHW)
        scale_BC = rstd_BC * weight_C
        return _channel_affine(x_BCHW, scale_BC, bias_C - mean_BC * scale_BC)

    def statistics(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and reciprocal standard deviation of every group, repeated to shape (B, C)."""
        B, C, _, _ = x_BCHW.shape
        mean_rows = _row_means(x_BCHW).reshape(B * self.groups, -1)
        square_rows = _row_means(x_BCHW * x_BCHW).reshape(B * self.groups, -1)
        mean_BG = self.mean_keepdims(mean_rows, 1)
        offset_rows = mean_rows - mean_BG
        variance_rows = square_rows - mean_rows * mean_rows
        variance_BG = self.mean_keepdims(variance_rows + offset_rows * offset_rows, 1)
        rstd_BG = 1.0 / ops.sqrt(variance_BG + self.eps)
        return self.repeat_to_channels(mean_BG, B, C), self.repeat_to_channels(rstd_BG, B, C)

    def repeat_to_channels(self, value_BG: Tensor, B: int, C: int) -> Tensor:
        return self.tile(value_BG.reshape(B * self.groups, 1), (1, C // self.groups)).reshape(B, C)

    def bprop(self, x_BCHW, weight_C, bias_C, out, dy_BCHW):
        """Return the gradients of x, weight and bias.

        With x̂ the normalized input, dx = rstd·(w·dy − mean(w·dy) − x̂·mean(w·dy·x̂)), means over a group.
        """
        B, C, _, _ = x_BCHW.shape
        mean_BC, rstd_BC = self.statistics(x_BCHW)
        mean_dy_BC = self.mean(_row_means(dy_BCHW), 2)
        mean_dy_xhat_BC = (self.mean(_row_means(dy_BCHW * x_BCHW), 2) - mean_BC * mean_dy_BC) * rstd_BC
        group_dy_BC = self.group_means(mean_dy_BC * weight_C, B, C)
        group_dy_xhat_BC = self.group_means(mean_dy_xhat_BC * weight_C, B, C)
        slope_BC = -rstd_BC * rstd_BC * group_dy_xhat_BC
        dx = _channel_affine(dy_BCHW, rstd_BC * weight_C, -rstd_BC * group_dy_BC - slope_BC * mean_BC)
        dx = dx + _channel_affine(x_BCHW, slope_BC, ops.zeros_like(slope_BC))
        positions = x_BCHW.shape[2] * x_BCHW.shape[3]
        return dx, self.sum(mean_dy_xhat_BC, 0) * positions, self.sum(mean_dy_BC, 0) * positions

    def group_means(self, value_BC: Tensor, B: int, C: int) -> Tensor:
        """Return the mean over the channels of each group, repeated to shape (B, C)."""
        return self.repeat_to_channels(self.mean(value_BC.reshape(B * self.groups, -1), 1), B, C)


class SpatialNorm(nn.Cell):
    """x·scale + shift at every position, where both are linear in [latents, 1] and contain the normalization.

    This takes two products of few channels and two elementwise passes instead of a normalization, two products with
    biases and two passes. They are in float32, because the reciprocal deviation is part of their weights.
    """

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.group_norm = GroupNorm(groups, eps)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor, norm: Affine, scale: Affine, shift: Affine) -> Tensor:
        B, C, H, W = x_BCHW.shape
        mean_BC, rstd_BC = self.group_norm.statistics(x_BCHW)
        factor_BC = rstd_BC * norm[0]
        offset_BC = norm[1] - mean_BC * factor_BC
        scale_1CK = _with_bias(scale)
        scale_BCK = factor_BC.reshape(B, C, 1) * scale_1CK
        shift_BCK = offset_BC.reshape(B, C, 1) * scale_1CK + _with_bias(shift)
        latents_BKHW = ops.concat((quantized_BCHW, ops.ones((B, 1, H, W), quantized_BCHW.dtype)), 1)
        return x_BCHW * _mix_channels(scale_BCK, latents_BKHW) + _mix_channels(shift_BCK, latents_BKHW)


def _mix_channels(weight_BCK: Tensor, x_BKHW: Tensor) -> Tensor:
    """Multiply the channels of every position by the matrix of its sample; for one sample a convolution is faster."""
    B, C, K = weight_BCK.shape
    _, _, H, W = x_BKHW.shape
    if B == 1:
        return ops.Conv2D(C, 1)(x_BKHW, weight_BCK.reshape(C, K, 1, 1))
    return ops.BatchMatMul()(weight_BCK, x_BKHW.reshape(B, K, H * W)).reshape(B, C, H, W)


def _with_bias(affine: Affine) -> Tensor:
    """Return the weight (C, c_in, 1, 1) and the bias of a 1×1 convolution as one matrix (1, C, c_in + 1)."""
    weight, bias_C = affine
    C = weight.shape[0]
    return ops.concat((weight.reshape(1, C, -1), bias_C.reshape(1, C, 1)), 2).astype(ms.float32)


def _channel_affine(x_BCHW: Tensor, scale_BC: Tensor, shift_BC: Tensor) -> Tensor:
    """Return x·scale + shift for every sample and channel; inference-mode BatchNorm is the fastest kernel for it."""
    B, C, H, W = x_BCHW.shape
    mean, variance = ops.zeros((B * C,), x_BCHW.dtype), ops.ones((B * C,), x_BCHW.dtype)
    affine = ops.BatchNorm(is_training=False, epsilon=1e-12)
    y = affine(x_BCHW.reshape(1, B * C, H, W), scale_BC.reshape(-1), shift_BC.reshape(-1), mean, variance)[0]
    return y.reshape(B, C, H, W)


def _row_means(x_BCHW: Tensor) -> Tensor:
    """Return the mean over W, shape (B, C, H), as a product with a constant vector: faster than a reduction kernel."""
    B, C, H, W = x_BCHW.shape
    return ops.MatMul()(x_BCHW.reshape(-1, W), ops.ones((W, 1), x_BCHW.dtype)).reshape(B, C, H) * (1.0 / W)
