"""Kernels whose formulation differs from the textbook's, against the textbook's in numpy."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from shared.device import setup_device
from vq_stage.model.kernels import cpu
from vq_stage.model.kernels.cpu import (
    GroupNorm,
    SpatialNorm,
    argmax_codes,
    causal_conv3d,
    conv2d,
    nearest_codes,
    upsample2x_conv,
    upsample_nearest,
)

setup_device("cpu")
RANDOM = np.random.default_rng(0)
EPS = 1e-6


def draw(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    grouped = x.astype(np.float64).reshape(len(x), groups, -1)
    normal = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + EPS)
    return normal.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize("offset", [0.0, 3.0, 100.0])
def test_group_norm_survives_a_large_mean(offset: float) -> None:
    """Largest measured error: 2e-6 at mean 0, 1.1e-3 at a mean of 100 standard deviations."""
    x, weight, bias = draw(2, 64, 8, 16) + np.float32(offset), draw(64), draw(64)
    y = GroupNorm(32, EPS)(Tensor(x), Tensor(weight), Tensor(bias)).asnumpy()
    np.testing.assert_allclose(y, group_norm(x, weight, bias, 32), atol=1e-5 if offset < 10 else 3e-3)


def test_group_norm_gradient_equals_finite_differences() -> None:
    x, weight, bias, probe = draw(2, 8, 3, 4), draw(8), draw(8), draw(2, 8, 3, 4)
    cell = GroupNorm(4, EPS)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (cell(x, weight, bias) * Tensor(probe)).sum()

    gradients = ms.grad(loss, (0, 1, 2))(Tensor(x), Tensor(weight), Tensor(bias))
    arguments = [x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64)]
    for argument_index, gradient in enumerate(gradients):
        for index in [tuple(RANDOM.integers(0, n) for n in arguments[argument_index].shape) for _ in range(8)]:
            values = []
            for step in (1e-4, -1e-4):
                moved = [argument.copy() for argument in arguments]
                moved[argument_index][index] += step
                values.append((group_norm(*moved, groups=4) * probe).sum())
            np.testing.assert_allclose(gradient.asnumpy()[index], (values[0] - values[1]) / 2e-4, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_spatial_norm_scales_and_shifts_a_group_norm(batch: int) -> None:
    x, latents = draw(batch, 16, 5, 7), draw(batch, 4, 5, 7)
    weight, bias, scale, scale_bias, shift, shift_bias = (draw(16, *rest) for rest in ((), (), (4,), (), (4,), ()))
    scale_BCHW = np.einsum("ck,bkhw->bchw", scale, latents) + scale_bias[:, None, None]
    shift_BCHW = np.einsum("ck,bkhw->bchw", shift, latents) + shift_bias[:, None, None]
    affines = [(weight, bias), (scale.reshape(16, 4, 1, 1), scale_bias), (shift.reshape(16, 4, 1, 1), shift_bias)]
    tensors = [(Tensor(matrix), Tensor(offset)) for matrix, offset in affines]
    y = SpatialNorm(8, EPS)(Tensor(x), Tensor(latents), *tensors).asnumpy()
    np.testing.assert_allclose(y, group_norm(x, weight, bias, 8) * scale_BCHW + shift_BCHW, atol=3e-5)


def test_upsample_nearest_repeats_pixels() -> None:
    x_BCHW = np.array([[[[1, 2]]]], np.float32)
    assert upsample_nearest(Tensor(x_BCHW), 2).asnumpy().tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_upsample2x_conv_equals_doubling_then_convolving() -> None:
    x, weight, bias = draw(2, 8, 5, 7), draw(8, 8, 3, 3), draw(8)
    doubled = x.repeat(2, axis=2).repeat(2, axis=3)
    expected = conv2d(Tensor(doubled), Tensor(weight), Tensor(bias), pad=1).asnumpy()
    found = upsample2x_conv(Tensor(x), Tensor(weight), Tensor(bias)).asnumpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_gradients_of_upsample2x_conv_equal_those_of_doubling_then_convolving() -> None:
    inputs = tuple(Tensor(draw(*shape)) for shape in ((2, 8, 5, 7), (8, 8, 3, 3), (8,)))
    probe = Tensor(draw(2, 8, 10, 14))

    def expected_loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (conv2d(upsample_nearest(x, 2), weight, bias, pad=1) * probe).sum()

    def found_loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return (upsample2x_conv(x, weight, bias) * probe).sum()

    for expected, found in zip(ms.grad(expected_loss, (0, 1, 2))(*inputs), ms.grad(found_loss, (0, 1, 2))(*inputs)):
        np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("taps", "stride", "frames"), [(4, 2, 4), (3, 1, 3), (3, 1, 1)])
def test_causal_conv3d_equals_the_sum_over_taps(taps: int, stride: int, frames: int) -> None:
    weight, bias, x = draw(4, 4, taps, 3, 3), draw(4), draw(2, frames, 4, 5, 6)
    padded = np.pad(x, ((0, 0), (2, 0), (0, 0), (1, 1), (1, 1)))
    outputs = (frames + 2 - taps) // stride + 1
    expected = np.zeros((2, outputs, 4, 5, 6))
    for t in range(outputs):
        for tap in range(taps):
            for i in range(3):
                for j in range(3):
                    window = padded[:, t * stride + tap, :, i : i + 5, j : j + 6]
                    expected[:, t] += np.einsum("oc,bchw->bohw", weight[:, :, tap, i, j], window)
    found = causal_conv3d(Tensor(x), Tensor(weight), Tensor(bias), stride).asnumpy()
    np.testing.assert_allclose(found, expected + bias[:, None, None], atol=1e-4)


def test_nearest_codes_and_their_ties() -> None:
    codebook = np.array(
        [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0], [5, 5, 5, 5], [-1, 0, 0, 0]], np.float32
    )
    latents = np.array([[0.9, 0.1, 0, 0], [0, 1.9, 0, 0], [-0.2, 0, 0, 0], [9, 9, 9, 9], [-0.6, 0, 0, 0]], np.float32)
    codes = nearest_codes(Tensor(latents.T.reshape(1, 1, 4, 1, 5)), Tensor(codebook)).asnumpy()
    assert codes.reshape(-1).tolist() == [1, 3, 0, 4, 5]  # entries 1 and 2 are equal: the lower index wins


@pytest.mark.parametrize("max_products", [1, 50, 1 << 25], ids=["one latent", "parts", "whole"])
def test_argmax_codes_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch, max_products: int) -> None:
    monkeypatch.setattr(cpu, "MAX_PRODUCTS", max_products)
    latents, codebook = draw(2, 1, 5, 3, 4), draw(11, 5)
    codebook[7] = codebook[2]  # a tie, wherever entry 2 is the largest
    latents[0, 0, :, 0, 0] = codebook[2]
    codebook[[n for n in range(11) if n not in (2, 7)]] *= 0.1
    codes = argmax_codes(Tensor(latents), Tensor(codebook)).asnumpy()
    expected = np.einsum("btchw,kc->bthwk", latents, codebook).argmax(-1)
    assert codes.shape == (2, 1, 3, 4)
    np.testing.assert_array_equal(codes, expected)
    assert codes[0, 0, 0, 0] == 2
