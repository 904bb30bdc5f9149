"""The training step and its schedules."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from shared.device import setup_device
from tests.support.vision_models import TINY_VQ
from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.kernels import cpu
from vq_stage.training.initialization import initialize_emu3
from vq_stage.training.moving_averages import MovingAverageStep
from vq_stage.training.options import TrainVQOptions
from vq_stage.training.step import learning_rate_schedule, quantized_share


def test_schedules() -> None:
    options = TrainVQOptions("s", "o", config="c", steps=100, warmup=10, learning_rate=1.0)
    rates = learning_rate_schedule(options)
    assert rates[0] == pytest.approx(0.1, rel=1e-2)
    assert max(rates) == pytest.approx(1.0, abs=0.03)
    assert rates[-1] == pytest.approx(0.01, abs=0.002)
    shares = [quantized_share(step, options) for step in (0, 20, 110, 200, 9999)]
    assert shares == [0, 0, 0.5, 1, 1]


def test_gradient_reaches_every_weight() -> None:
    """Straight-through: the encoder learns from the reconstruction although codes are discrete.

    Noise is added to every weight, since branches that start at zero hide those before them from the first gradient.
    """
    setup_device("cpu")
    model, random = Emu3Network(TINY_VQ, cpu), np.random.default_rng(0)
    initialize_emu3(model, 0)
    for p in model.trainable_params():
        p.set_data(p + Tensor(random.normal(scale=0.05, size=p.shape).astype(np.float32)))
    step = MovingAverageStep(model, TrainVQOptions("s", "o", config="c", steps=6))
    pixels = Tensor(np.random.default_rng(0).uniform(-1, 1, (2, 4, 3, 32, 32)).astype(np.float32))
    _, gradients = step.gradient(pixels, Tensor(1.0, ms.float32))
    without = [p.name for p, g in zip(step.weights, gradients) if not np.abs(g.asnumpy()).max() > 0]
    assert without == []
