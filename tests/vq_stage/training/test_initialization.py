"""Initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.device import setup_device
from tests.support.vision_models import TINY_VQ
from vq_stage.model.kernels import cpu
from vq_stage.model.network import VQModel
from vq_stage.training.initialization import initialize

setup_device("cpu")


def test_equal_seeds_give_equal_weights() -> None:
    first, second, other = (VQModel(TINY_VQ, cpu) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        initialize(model, seed)
    name = "encoder.conv_in.weight"
    weights = [dict(model.parameters_and_names())[name].asnumpy() for model in (first, second, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize(("base_channels", "passes_colors"), [(32, False), (128, True)])
def test_residual_branches_end_in_zeros_where_groups_are_wide_enough(base_channels: int, passes_colors: bool) -> None:
    model = VQModel(replace(TINY_VQ, base_channels=base_channels), cpu)
    initialize(model, 0)
    weights = dict(model.parameters_and_names())["encoder.middle_block.block_1.conv2.weight"].asnumpy()
    assert np.all(weights == 0) == passes_colors
