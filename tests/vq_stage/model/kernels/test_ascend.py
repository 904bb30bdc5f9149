"""The kernels for Ascend, with operators that CPU lacks replaced by functions of their documented behavior."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from shared.device import Device, setup_device
from tests.support.ascend_vision_operators import substitute_operators
from tests.support.vision_models import TINY_VQ
from vq_stage import VisionTokenizer
from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.families import read_config
from vq_stage.model.kernels import Kernels, ascend, cpu, select
from vq_stage.model.weights import load_weights
from vq_stage.training.initialization import initialize_emu3
from vq_stage.training.moving_averages import MovingAverageStep
from vq_stage.training.options import TrainVQOptions

DEVICE = setup_device("cpu")
RANDOM = np.random.default_rng(0)
NAMES = [name for name in vars(Kernels) if inspect.isfunction(vars(Kernels)[name]) and not name.startswith("_")]


@pytest.fixture(autouse=True)
def _substitutes(monkeypatch: pytest.MonkeyPatch) -> None:
    substitute_operators(monkeypatch)


def draw(*shape: int) -> Tensor:
    return Tensor(RANDOM.normal(size=shape).astype(np.float32))


def test_both_modules_define_all_kernels() -> None:
    assert len(NAMES) == 12
    for module in (cpu, ascend):
        assert [name for name in NAMES if not callable(getattr(module, name, None))] == []
    assert select(DEVICE) is cpu
    assert select(Device("Ascend", "float32", "", "ascend")) is ascend
    assert select(Device("Ascend", "float32", "", "cpu")) is cpu


CASES: dict[str, Callable[[ModuleType], Tensor]] = {}
X, WEIGHT, BIAS = draw(2, 8, 6, 10), draw(8, 8, 3, 3), draw(8)
CASES["conv2d"] = lambda kernels: kernels.conv2d(X, WEIGHT, BIAS, 1, 1)
CASES["conv2d, stride 2"] = lambda kernels: kernels.conv2d(X, WEIGHT, BIAS, 2, (0, 1, 0, 1))
CASES["conv2d, other padding"] = lambda kernels: kernels.conv2d(X, WEIGHT, BIAS, 1, (0, 1, 2, 3))
CASES["upsample_nearest"] = lambda kernels: kernels.upsample_nearest(X, 2)
CASES["upsample2x_conv"] = lambda kernels: kernels.upsample2x_conv(X, WEIGHT, BIAS)
CASES["channel_linear"] = lambda kernels: kernels.channel_linear(X.reshape(2, 8, 60), WEIGHT[:, :, 0, 0], BIAS)
CASES["group norm"] = lambda kernels: kernels.GroupNorm(4, 1e-6)(X, BIAS, BIAS)
LATENTS, NORM, SCALE = draw(2, 4, 6, 10), (draw(8), BIAS), (draw(8, 4, 1, 1), BIAS)
CASES["spatial norm"] = lambda kernels: kernels.SpatialNorm(4, 1e-6)(X, LATENTS, NORM, SCALE, SCALE)
CASES["mean_squared_error"] = lambda kernels: kernels.mean_squared_error(X, X * X)
FRAMES, KERNEL_4, KERNEL_3 = draw(2, 4, 8, 5, 6), draw(8, 8, 4, 3, 3), draw(8, 8, 3, 1, 1)
CASES["causal_conv3d, stride 2"] = lambda kernels: kernels.causal_conv3d(FRAMES, KERNEL_4, BIAS, 2)
CODEBOOK = draw(17, 8)
CASES["argmax_codes"] = lambda kernels: kernels.argmax_codes(FRAMES, CODEBOOK).astype(ms.float32)
CASES["causal_conv3d, 1×1"] = lambda kernels: kernels.causal_conv3d(FRAMES, KERNEL_3, BIAS)


@pytest.mark.parametrize("name", CASES)
def test_kernels_of_both_devices_are_equal(name: str) -> None:
    found, expected = CASES[name](ascend), CASES[name](cpu)
    assert found.dtype == expected.dtype == ms.float32
    np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), atol=2e-5, rtol=2e-5)


def test_golden_codes_and_pixels(golden_vq: Path, golden_vq_expected: dict[str, np.ndarray]) -> None:
    expected = golden_vq_expected
    config = read_config(golden_vq)
    model = Emu3Network(config, ascend)
    load_weights(model, golden_vq)
    tokenizer = VisionTokenizer(model.set_train(False), config, DEVICE)
    np.testing.assert_array_equal(tokenizer.encode_images(expected["images"]), expected["image_codes"])
    np.testing.assert_array_equal(tokenizer.encode_video(expected["video"], 2), expected["video_codes"][:, 0])
    pixels = model.decode_codes(Tensor(expected["image_codes"][:, None].astype(np.int32)), True).asnumpy()[:, 0]
    np.testing.assert_allclose(pixels, expected["image_recon"], rtol=6e-4, atol=1e-4)  # stored as float16


def test_gradients_of_train_vq() -> None:
    pixels = Tensor(np.random.default_rng(0).uniform(-1, 1, (2, 4, 3, 32, 32)).astype(np.float32))
    results = []
    for kernels in (cpu, ascend):
        model, random = Emu3Network(TINY_VQ, kernels), np.random.default_rng(0)
        initialize_emu3(model, 0)
        for p in model.trainable_params():
            p.set_data(p + Tensor(random.normal(scale=0.05, size=p.shape).astype(np.float32)))
        step = MovingAverageStep(model, TrainVQOptions("s", "o", config="c", steps=6))
        outputs, gradients = step.gradient(pixels, Tensor(1.0, ms.float32))
        results.append((float(outputs[0].asnumpy()), [gradient.asnumpy() for gradient in gradients]))
    (loss, expected), (found_loss, found) = results
    assert found_loss == pytest.approx(loss, rel=1e-6)
    noise = 1e-7 * max(np.abs(a).max() for a in expected)  # some biases have no effect: a norm follows
    for name, a, b in zip([p.name for p in step.weights], expected, found):
        np.testing.assert_allclose(b, a, atol=1e-3 * np.abs(a).max() + noise, err_msg=name)
