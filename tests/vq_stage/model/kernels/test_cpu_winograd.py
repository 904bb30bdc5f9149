"""3×3 convolutions with fewer products, against the framework's operator."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from shared.device import setup_device
from vq_stage.model.kernels.cpu import conv2d
from vq_stage.model.kernels.cpu_winograd import MIN_CHANNELS, MIN_ROWS, pays_off

setup_device("cpu")
RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def convolve(x_BCHW: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
    """Convolve with a 3×3 kernel and padding 1, by the framework's operator."""
    y_BCHW = ops.Conv2D(weight.shape[0], 3, pad_mode="pad", pad=1)(x_BCHW, weight)
    return y_BCHW + bias_C.reshape(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("channels", "size"),
    [
        pytest.param((MIN_CHANNELS, MIN_CHANNELS), (4, 1), id="one tile"),
        pytest.param((MIN_CHANNELS, MIN_CHANNELS + 32), (12, 7), id="several tiles"),
        pytest.param((MIN_CHANNELS, MIN_CHANNELS), (9, 6), id="a tile with one row"),
        pytest.param((MIN_CHANNELS, MIN_CHANNELS), (MIN_ROWS - 1, 6), id="few rows"),
        pytest.param((3, MIN_CHANNELS), (4, 6), id="few channels"),
    ],
)
def test_conv2d_of_3x3_equals_the_operator_and_its_gradients(channels: tuple[int, int], size: tuple[int, int]) -> None:
    c_in, c_out = channels
    inputs = Tensor(draw(2, c_in, *size)), Tensor(draw(c_out, c_in, 3, 3) / (3 * c_in**0.5)), Tensor(draw(c_out))
    probe = Tensor(draw(2, c_out, *size))
    np.testing.assert_allclose(conv2d(*inputs, pad=1).asnumpy(), convolve(*inputs).asnumpy(), atol=3e-5)
    ours = ms.grad(lambda *values: (conv2d(*values, pad=1) * probe).sum(), (0, 1, 2))(*inputs)
    expected = ms.grad(lambda *values: (convolve(*values) * probe).sum(), (0, 1, 2))(*inputs)
    for gradient, operator_gradient in zip(ours, expected):
        np.testing.assert_allclose(gradient.asnumpy(), operator_gradient.asnumpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_half_precision_is_left_to_the_operator(dtype: ms.Type) -> None:
    weight = ops.zeros((MIN_CHANNELS, MIN_CHANNELS, 3, 3), ms.float32)
    assert pays_off(MIN_ROWS, weight)
    assert not pays_off(MIN_ROWS, weight.astype(dtype))
