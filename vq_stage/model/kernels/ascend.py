"""The forms that Ascend's own operators (aclnn) compute. None of them has run on an NPU.

What was compiled, and which operators have no kernel on CPU, is in `docs/ascend.md`; the tests substitute those by
their documented behavior. `Kernels` says what each function computes.
Shape suffixes: B batch, T frames, C channels, H W grid, L positions, K codebook entries.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, mint, nn, ops
from mindspore.ops import auto_generate

from vq_stage.model.kernels import Padding
from vq_stage.model.kernels.cpu import nearest_codes

__all__ = ["nearest_codes"]  # its operators all have an aclnn kernel


class GroupNorm(nn.Cell):
    """`GroupNorm` and `GroupNormGrad`, in float32."""

    def __init__(self, groups: int, eps: float):
        super().__init__()
        self.groups = groups
        self.eps = eps

    def construct(self, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        return auto_generate.GroupNorm()(x_BCHW, self.groups, weight_C, bias_C, self.eps)[0]


def conv2d(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1, pad: Padding = 0) -> Tensor:
    """`Conv2DExt` pads opposite sides alike; for other padding, `ConstantPadND` comes first."""
    x_BCHW = x_BCHW.astype(weight.dtype)
    if isinstance(pad, tuple):
        top, bottom, left, right = pad
        x_BCHW, pad = auto_generate.ConstantPadND()(x_BCHW, (left, right, top, bottom), 0.0), 0
    return auto_generate.Conv2DExt()(x_BCHW, weight, bias_C, stride, pad).astype(ms.float32)


def causal_conv3d(x_BTCHW: Tensor, weight: Tensor, bias_C: Tensor, stride: int = 1) -> Tensor:
    B, _, C, H, W = x_BTCHW.shape
    x = ops.concat((ops.zeros((B, 2, C, H, W), x_BTCHW.dtype), x_BTCHW), 1)
    x_BCTHW = x.transpose(0, 2, 1, 3, 4).astype(weight.dtype)
    side = weight.shape[3] // 2
    y_BCTHW = auto_generate.Conv3DExt()(x_BCTHW, weight, bias_C, (stride, 1, 1), (0, side, side))
    return y_BCTHW.transpose(0, 2, 1, 3, 4).astype(ms.float32)


def upsample_nearest(x_BCHW: Tensor, factor: int) -> Tensor:
    _, _, H, W = x_BCHW.shape
    return auto_generate.UpsampleNearest2D()(x_BCHW, (H * factor, W * factor), None)


def upsample2x_conv(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
    return conv2d(upsample_nearest(x_BCHW.astype(weight.dtype), 2), weight, bias_C, pad=1)


def channel_linear(x_BCL: Tensor, weight_CC: Tensor, bias_C: Tensor) -> Tensor:
    """`MatMulExt` multiplies every sample by the same weight."""
    y_BCL = mint.matmul(weight_CC, x_BCL.astype(weight_CC.dtype)) + bias_C.reshape(-1, 1)
    return y_BCL.astype(ms.float32)


def attention(q_BCL: Tensor, k_BCL: Tensor, v_BCL: Tensor, dtype: ms.Type) -> Tensor:
    """Products and a softmax: a head of 1 024 channels is beyond the fused operators."""
    scale = q_BCL.shape[1] ** -0.5
    scores_BLL = ops.BatchMatMul(transpose_a=True)((q_BCL * scale).astype(dtype), k_BCL.astype(dtype))
    weights_BLL = ops.softmax(scores_BLL.astype(ms.float32), -1)
    return ops.BatchMatMul(transpose_b=True)(v_BCL.astype(dtype), weights_BLL.astype(dtype)).astype(ms.float32)


def lookup(codes_BTHW: Tensor, codebook_KC: Tensor) -> Tensor:
    return mint.nn.functional.embedding(codes_BTHW, codebook_KC)


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return mint.nn.functional.mse_loss(x, y)
