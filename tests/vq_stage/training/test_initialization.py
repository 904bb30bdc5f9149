"""Initial weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mindspore import Tensor

from shared.device import setup_device
from tests.support.vision_models import TINY_IBQ, TINY_VQ
from vq_stage.model.emu3 import Emu3Network
from vq_stage.model.ibq import IbqNetwork
from vq_stage.model.kernels import cpu
from vq_stage.training.index_backpropagation import TrainedCodebook
from vq_stage.training.initialization import initialize_emu3, initialize_ibq

setup_device("cpu")


def test_equal_seeds_give_equal_weights() -> None:
    first, second, other = (Emu3Network(TINY_VQ, cpu) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        initialize_emu3(model, seed)
    name = "encoder.conv_in.weight"
    weights = [dict(model.parameters_and_names())[name].asnumpy() for model in (first, second, other)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize(("base_channels", "passes_colors"), [(32, False), (128, True)])
def test_residual_branches_end_in_zeros_where_groups_are_wide_enough(base_channels: int, passes_colors: bool) -> None:
    model = Emu3Network(replace(TINY_VQ, base_channels=base_channels), cpu)
    initialize_emu3(model, 0)
    weights = dict(model.parameters_and_names())["encoder.middle_block.block_1.conv2.weight"].asnumpy()
    assert np.all(weights == 0) == passes_colors


def blocky_picture() -> np.ndarray:
    """Return a picture (1, 1, 3, 32, 32) in [-1, 1] of 8×8 squares in random colors."""
    colors_CHW = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4))
    return np.kron(colors_CHW, np.ones((8, 8)))[None, None].astype(np.float32)


@pytest.mark.parametrize(("latent_channels", "embed_dim"), [(16, 16), (16, 8), (4, 4)])
def test_a_new_ibq_tokenizer_passes_colors_through_its_codes(latent_channels: int, embed_dim: int) -> None:
    config = replace(TINY_IBQ, base_channels=128, latent_channels=latent_channels, embed_dim=embed_dim)
    model, picture = IbqNetwork(config, cpu), blocky_picture()
    initialize_ibq(model, 0)
    codebook = TrainedCodebook(model.quantize, 0.98, 0)
    latents = model.encode_latents(Tensor(picture))
    codebook.update(latents.asnumpy(), np.zeros((1, 1, 8, 8), np.int64), 0)
    restored = model.decode_quantized(model.quantize.lookup(model.quantize.nearest_codes(latents)), True).asnumpy()
    assert np.corrcoef(restored.reshape(-1), picture.reshape(-1))[0, 1] > 0.8
