"""Training crops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vq_stage.training.data import random_crop


@pytest.mark.parametrize("size", [(100, 60), (20, 30)])
@pytest.mark.parametrize("frames", [1, 4])
def test_crops_have_the_size_and_depend_on_the_seed(size: tuple[int, int], frames: int) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    crops = [random_crop(image, 32, frames, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert crops[0].shape == (frames, 32, 32, 3)
    np.testing.assert_array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[0], crops[2])
