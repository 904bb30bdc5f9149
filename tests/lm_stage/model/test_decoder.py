"""The output of some positions only, which the loss needs."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np

from lm_stage.model.decoder import rotary_tables
from tests.support.golden_training import golden_decoder


def test_output_of_some_positions_is_that_of_all(golden_lm: Path) -> None:
    decoder, B, L = golden_decoder(golden_lm), 2, 5
    token_ids_BL = ms.Tensor(np.random.default_rng(0).integers(300, size=(B, L)), ms.int32)
    positions_BL = ms.Tensor(np.tile(np.arange(L), (B, 1)), ms.int32)
    tables = (ms.Tensor(np.tile(table, (B, 1, 1))) for table in rotary_tables(decoder.config, L))
    mask = decoder.attention.mask(positions_BL, positions_BL[0])
    attentions = (decoder.attention,) * decoder.config.num_hidden_layers
    arguments = token_ids_BL, *tables, attentions, mask
    every_BLC = decoder.model(*arguments).asnumpy()
    indices = [9, 3, 3, 0]
    some_1KC = decoder.model(*arguments, ms.Tensor(indices, ms.int32)).asnumpy()
    np.testing.assert_allclose(some_1KC[0], every_BLC.reshape(B * L, -1)[indices], rtol=1e-4, atol=1e-5)
