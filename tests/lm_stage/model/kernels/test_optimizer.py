"""The updates of AdamW against the published rule."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from lm_stage.model.kernels import Kernels, ascend, cpu
from shared.device import setup_device

BETA1, BETA2 = 0.9, 0.95
RATE, EPS, DECAY = 0.02, 1e-3, 0.3


@pytest.mark.parametrize("decay", [DECAY, None])
@pytest.mark.parametrize("kernels", [cpu, ascend], ids=["cpu", "ascend"])
def test_update_of_adamw(kernels: Kernels, decay: float | None) -> None:
    """Executed on a CPU; MindSpore has there the operator that is fused on Ascend too."""
    setup_device("cpu")
    random = np.random.default_rng(0)
    weight, m, gradient = (random.normal(size=(3, 5)).astype(np.float32) for _ in range(3))
    v = random.random((3, 5)).astype(np.float32)
    state = [ms.Parameter(ms.Tensor(array), name=name) for name, array in (("weight", weight), ("m", m), ("v", v))]
    scalars = [None if value is None else ms.Tensor(value, ms.float32) for value in (RATE, EPS, decay)]
    update = kernels.AdamWUpdate(BETA1, BETA2)

    @ms.jit(jit_level="O0")
    def step(gradient: ms.Tensor) -> ms.Tensor:
        return update(*state, *scalars, gradient)

    step(ms.Tensor(gradient))

    m, v = BETA1 * m + (1 - BETA1) * gradient, BETA2 * v + (1 - BETA2) * gradient**2
    wanted = weight - RATE * (m / (np.sqrt(v) + EPS) + (decay or 0) * weight)
    for found, expected in zip(state, (wanted, m, v)):
        np.testing.assert_allclose(found.asnumpy(), expected, rtol=1e-5, atol=1e-6)
