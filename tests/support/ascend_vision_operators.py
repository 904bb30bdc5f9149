"""The documented behavior of the operators that the vision tokenizer uses on Ascend, in operators that CPU has.

Most functions have the names and arguments of `mindspore.mint.nn.functional`, whose docstrings are the source;
`vq_stage.model.kernels.ascend` looks its operators up there. `split_tensor` takes the place of one in that module
itself. Each is differentiable, so gradients can be compared too.
"""

from __future__ import annotations

import mindspore as ms
import pytest
from mindspore import Tensor, ops

from vq_stage.model.kernels import ascend


def substitute_operators(patch: pytest.MonkeyPatch) -> None:
    """Let the kernels for Ascend run on CPU with the functions of this module."""
    from tests.support import ascend_vision_operators

    patch.setattr(ascend, "functional", ascend_vision_operators)
    patch.setattr(ascend, "split_tensor", split_tensor)


def conv2d(input: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Cross-correlate (N, C_in, H, W) with (C_out, C_in, k, k); `padding` zeros on all four sides."""
    convolve = ops.Conv2D(weight.shape[0], weight.shape[2], pad_mode="pad", pad=padding, stride=stride)
    return convolve(input, weight) + bias.reshape(1, -1, 1, 1)


def conv3d(input: Tensor, weight: Tensor, bias: Tensor, stride: tuple, padding: tuple) -> Tensor:
    """Cross-correlate (N, C_in, D, H, W) with (C_out, C_in, d, k, k), as a sum over the d planes of the kernel.

    `stride` and `padding` are of D, H and W; here rows and columns have stride 1, and D has no padding.
    """
    N, C, D, H, W = input.shape
    c_out, _, taps, _, _ = weight.shape
    y = None
    depths = range(0, D - taps + 1, stride[0])
    for tap in range(taps):
        planes = ops.stack([input[:, :, depth + tap] for depth in depths], 1).reshape(-1, C, H, W)
        part = conv2d(planes, weight[:, :, tap], ops.zeros((c_out,), input.dtype), 1, padding[1])
        y = part if y is None else y + part
    y = y.reshape(N, len(depths), c_out, H, W).transpose(0, 2, 1, 3, 4)
    return y + bias.reshape(1, -1, 1, 1, 1)


def pad(input: Tensor, pad: tuple) -> Tensor:
    """Add zeros; `pad` is (left, right, top, bottom): the last axis comes first."""
    N, C, H, W = input.shape
    left, right, top, bottom = pad
    wide = ops.concat((ops.zeros((N, C, H, left), input.dtype), input, ops.zeros((N, C, H, right), input.dtype)), 3)
    width = W + left + right
    above, below = ops.zeros((N, C, top, width), input.dtype), ops.zeros((N, C, bottom, width), input.dtype)
    return ops.concat((above, wide, below), 2)


def group_norm(input: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x − E[x])/√(Var[x] + eps)·weight + bias, the variance of a group divided by its number of elements."""
    N, C, H, W = input.shape
    grouped = input.reshape(N, num_groups, -1)
    centered = grouped - grouped.mean(2, True)
    normal = centered / ops.sqrt((centered * centered).mean(2, True) + eps)
    return normal.reshape(N, C, H, W) * weight.reshape(1, C, 1, 1) + bias.reshape(1, C, 1, 1)


def interpolate(input: Tensor, size: tuple, mode: str) -> Tensor:
    """Nearest neighbor: output pixel i is input pixel floor(i · input size / output size)."""
    if mode != "nearest":
        raise ValueError(mode)
    N, C, H, W = input.shape
    up, across = size[0] // H, size[1] // W
    return ops.tile(input.reshape(N, C, H, 1, W, 1), (1, 1, 1, up, 1, across)).reshape(N, C, H * up, W * across)


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """Return the rows of `weight` with the indices `input`: (*input.shape, columns)."""
    return ops.gather(weight, input, 0)


def split_tensor(input: Tensor, split_size: int, dim: int) -> tuple[Tensor, ...]:
    """Return parts of `split_size` along an axis; the last may be smaller."""
    return ops.split(input, split_size, dim)


def mse_loss(input: Tensor, target: Tensor) -> Tensor:
    """Return the mean of the squared differences."""
    return ops.square(input.astype(ms.float32) - target).mean()
