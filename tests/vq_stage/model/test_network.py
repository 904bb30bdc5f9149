"""The network's parts; the whole of it is compared with upstream in `tests/vq_stage/test_tokenizer.py`."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from shared.device import setup_device
from vq_stage.model.config import VQConfig
from vq_stage.model.kernels import cpu
from vq_stage.model.network import Quantizer

setup_device("cpu")


def test_lookup_returns_the_entries_of_the_nearest_codes() -> None:
    quantizer = Quantizer(VQConfig(base_channels=32, codebook_size=3), cpu)
    codebook_KC = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0]], np.float32)
    quantizer.embedding.weight.set_data(Tensor(codebook_KC))
    latents_NC = np.array([[0.9, 0.1, 0, 0], [0, 1.9, 0, 0]], np.float32)
    codes = quantizer.nearest_codes(Tensor(latents_NC.T.reshape(1, 1, 4, 1, 2)))
    assert codes.asnumpy().reshape(-1).tolist() == [1, 2]
    quantized = quantizer.lookup(codes).asnumpy()
    assert quantized.shape == (1, 1, 4, 1, 2)
    np.testing.assert_array_equal(quantized[0, 0, :, 0].T, codebook_KC[1:])
