"""The forms for which Ascend has its own operators (aclnn). Compiled for Ascend on CPU; not run on an NPU.

The tests run them on CPU, where operators without a kernel there are replaced by functions of the same documented
behavior. `Kernels` says what each function computes.
Shape suffixes: B batch, T frames, C channels, H W grid, L positions, K codebook entries.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, nn, ops
from mindspore.mint.nn import functional
from mindspore.ops.auto_generate import SplitTensor

from vq_stage.model.kernels import Affine, Padding, cpu

MAX_PRODUCTS = 1 << 28  # of latents and codebook entries at once: 1 GiB
split_tensor = SplitTensor()
# Every operator of these two has an aclnn kernel. The fused operators of attention are documented for heads of up to
# 512 channels, and the published models have one of 1 024.
attention = cpu.attention
nearest_codes = cpu.nearest_codes


class GroupNorm(nn.Cell):
    """`GroupNorm` and its gradient `GroupNormGrad`, in float32."""

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.groups = groups
        self.eps = eps

    def construct(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        return functional.group_norm(x_BCHW, self.groups, weight_C, bias_C, self.eps)


class SpatialNorm(nn.Cell):
    """`GroupNorm` and two convolutions of the latents."""

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.group_norm = GroupNorm(groups, eps)

    def construct(self, x_BCHW: Tensor, quantized_BCHW: Tensor, norm: Affine, scale: Affine, shift: Affine) -> Tensor:
        scale_BCHW = conv2d(quantized_BCHW, scale[0], scale[1])
        return self.group_norm(x_BCHW, norm[0], norm[1]) * scale_BCHW + conv2d(quantized_BCHW, shift[0], shift[1])


def conv2d(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1, pad: Padding = 0) -> Tensor:
    """`Conv2DExt`, which pads opposite sides alike; any other padding is an operator of its own."""
    x = x_BCHW.astype(weight.dtype)
    if isinstance(pad, tuple):
        top, bottom, left, right = pad
        x, pad = functional.pad(x, (left, right, top, bottom)), 0
    return functional.conv2d(x, weight, bias_C, stride, pad).astype(ms.float32)


def causal_conv3d(x_BTCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1) -> Tensor:
    B, _, C, H, W = x_BTCHW.shape
    x = ops.concat((ops.zeros((B, 2, C, H, W), x_BTCHW.dtype), x_BTCHW), 1)
    x_BCTHW = x.transpose(0, 2, 1, 3, 4).astype(weight.dtype)
    side = weight.shape[3] // 2
    y_BCTHW = functional.conv3d(x_BCTHW, weight, bias_C, (stride, 1, 1), (0, side, side))
    return y_BCTHW.transpose(0, 2, 1, 3, 4).astype(ms.float32)


def upsample_nearest(x_BCHW: Tensor, factor: int) -> Tensor:
    _, _, H, W = x_BCHW.shape
    return functional.interpolate(x_BCHW, size=(H * factor, W * factor), mode="nearest")


def upsample2x_conv(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
    return conv2d(upsample_nearest(x_BCHW.astype(weight.dtype), 2), weight, bias_C, pad=1)


def channel_linear(x_BCL: Tensor, weight_CC: Tensor, bias_C: Tensor) -> Tensor:
    """`MatMulExt` multiplies every sample by the same weight, without copies of it."""
    y_BCL = mint.matmul(weight_CC, x_BCL.astype(weight_CC.dtype)) + bias_C.reshape(-1, 1)
    return y_BCL.astype(ms.float32)


def argmax_codes(latents_BTCHW: Tensor, codebook_KC: Tensor) -> Tensor:
    """`SplitTensor`, then a product and `ArgMaxWithValue` for each part."""
    B, T, _, H, W = latents_BTCHW.shape
    rows = max(1, MAX_PRODUCTS // codebook_KC.shape[0])
    parts_NC = split_tensor(cpu.latent_rows(latents_BTCHW), rows, 0)
    return cpu.argmax_of_parts(parts_NC, codebook_KC).reshape(B, T, H, W)


def lookup(codes_BTHW: Tensor, codebook_KC: Tensor) -> Tensor:
    return functional.embedding(codes_BTHW, codebook_KC)


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(x, y)
