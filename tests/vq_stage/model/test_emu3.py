"""The network's parts; the whole of it is compared with upstream in `tests/vq_stage/test_tokenizer.py`."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from shared.device import setup_device
from vq_stage.model.emu3 import Emu3Network, Quantizer
from vq_stage.model.emu3_config import Emu3Config
from vq_stage.model.families import read_config
from vq_stage.model.kernels import ascend, cpu
from vq_stage.model.weights import load_weights

setup_device("cpu")


def test_lookup_returns_the_entries_of_the_nearest_codes() -> None:
    quantizer = Quantizer(Emu3Config(base_channels=32, codebook_size=3), cpu)
    codebook_KC = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 2, 0, 0]], np.float32)
    quantizer.embedding.weight.set_data(Tensor(codebook_KC))
    latents_NC = np.array([[0.9, 0.1, 0, 0], [0, 1.9, 0, 0]], np.float32)
    codes = quantizer.nearest_codes(Tensor(latents_NC.T.reshape(1, 1, 4, 1, 2)))
    assert codes.asnumpy().reshape(-1).tolist() == [1, 2]
    quantized = quantizer.lookup(codes).asnumpy()
    assert quantized.shape == (1, 1, 4, 1, 2)
    np.testing.assert_array_equal(quantized[0, 0, :, 0].T, codebook_KC[1:])


def test_half_precision_is_for_convolutions_and_products_only(golden_vq: Path) -> None:
    """Norms, batch statistics and the codebook stay float32; a checkpoint is loaded into the types of the model."""
    model = Emu3Network(read_config(golden_vq), ascend).compute_in(ms.bfloat16)
    load_weights(model, golden_vq)
    in_float32 = {name for name, p in model.parameters_and_names() if p.dtype == ms.float32}
    assert {p.dtype for _, p in model.parameters_and_names()} == {ms.float32, ms.bfloat16}
    assert "quantize.embedding.weight" in in_float32
    others = {name for name in in_float32 if "norm" not in name and not name.startswith("quantize.")}
    assert others == set()
    assert not {name for name in in_float32 if name.endswith(("conv_y.weight", "conv_b.weight", "proj.weight"))}
    weight = model.encoder.conv_in.weight.astype(ms.float32).asnumpy()
    full = Emu3Network(model.config, cpu)
    load_weights(full, golden_vq)
    np.testing.assert_allclose(weight, full.encoder.conv_in.weight.asnumpy(), rtol=2**-8)
