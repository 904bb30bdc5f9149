"""The codebook's moving averages."""

from __future__ import annotations

import numpy as np

from vq_stage.model.emu3 import Quantizer
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.kernels import cpu
from vq_stage.training.moving_averages import CodebookEMA


def test_a_code_moves_to_the_mean_of_its_latents() -> None:
    quantizer = Quantizer(Emu3Config(base_channels=32, codebook_size=2), cpu)
    codebook = CodebookEMA(quantizer, decay=0.5, seed=0)
    codebook.restore({"counts": np.array([1.0, 1.0]), "sums": np.array([[0.0] * 4, [8.0] * 4])})
    latents = np.full((1, 1, 4, 1, 2), 2.0, np.float32)
    usage = codebook.update(latents, np.zeros((1, 1, 1, 2), np.int32), step=0)
    moved = quantizer.embedding.weight.asnumpy()
    # count 0.5·1 + 0.5·2 = 1.5, sum 0.5·0 + 0.5·4 = 2: mean 4/3; the unused code does not move
    np.testing.assert_allclose(moved, [[4 / 3] * 4, [8.0] * 4], rtol=1e-6)
    assert usage == 1.0


def test_dead_codes_are_restarted_on_latents() -> None:
    quantizer = Quantizer(Emu3Config(base_channels=32, codebook_size=4), cpu)
    codebook = CodebookEMA(quantizer, decay=0.5, seed=0)
    codebook.restore({"counts": np.array([1.0, 0, 0, 0]), "sums": np.zeros((4, 4))})
    latents = np.random.default_rng(0).normal(5, 0.1, (1, 1, 4, 8, 8)).astype(np.float32)
    codebook.update(latents, np.zeros((1, 1, 8, 8), np.int32), step=24)
    assert np.abs(quantizer.embedding.weight.asnumpy()[1:] - 5).max() < 1
