"""The IBQ tokenizer compared with golden data from the upstream code; its names and size with the published ones."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.common.initializer import initializer

import vq_stage.model.autoencoder
import vq_stage.model.layers
from shared.device import setup_device
from tests.support.ascend_vision_operators import substitute_operators
from tests.support.ibq_shapes import published_shapes
from vq_stage import VisionTokenizer
from vq_stage.model.families import build_network, read_config
from vq_stage.model.ibq import IbqNetwork, IndexQuantizer
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.kernels import ascend, cpu
from vq_stage.model.tensor_names import taming_name
from vq_stage.model.weights import load_weights
from vq_stage.tokenizer import to_uint8

DEVICE = setup_device("cpu")


@pytest.mark.parametrize("kernels", [cpu, ascend], ids=["cpu", "ascend"])
def test_codes_equal_upstream_and_pixels_are_within_one_gray_level(
    kernels: ModuleType,
    golden_ibq: Path,
    golden_ibq_expected: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The least margin of a code is 3.5e-4."""
    substitute_operators(monkeypatch)
    model = build_network(config := read_config(golden_ibq), kernels)
    load_weights(model, golden_ibq)
    tokenizer = VisionTokenizer(model.set_train(False), config, DEVICE)
    codes = tokenizer.encode_images(golden_ibq_expected["images"])
    assert codes.dtype == np.uint32
    np.testing.assert_array_equal(codes, golden_ibq_expected["codes"])
    expected = to_uint8(golden_ibq_expected["recon"])
    assert np.abs(tokenizer.decode_images(codes).astype(int) - expected).max() <= 1


def with_shape_only(*shape: int, fill: float = 0.0) -> Parameter:
    """A parameter that takes no memory until it is used."""
    return Parameter(initializer("zeros", shape))


def test_the_published_size_has_the_published_names_and_455_million_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As reported for BAAI's checkpoint, which has not been read here."""
    for module in (vq_stage.model.layers, vq_stage.model.autoencoder):
        monkeypatch.setattr(module, "parameter", with_shape_only)
    model = IbqNetwork(IbqConfig(), cpu)
    shapes = {taming_name(name): tuple(p.shape) for name, p in model.parameters_and_names()}
    expected = published_shapes(IbqConfig())
    assert {name: shape[: len(shapes[name])] for name, shape in expected.items()} == shapes
    assert round(sum(map(math.prod, shapes.values())) / 1e6) == 455


def test_the_golden_checkpoint_has_the_described_tensors(golden_ibq: Path) -> None:
    from shared.storage.safetensors_reader import read_checkpoint

    config = read_config(golden_ibq)
    assert isinstance(config, IbqConfig)
    assert {name: t.shape for name, t in read_checkpoint(golden_ibq).items()} == published_shapes(config)


def test_the_largest_product_is_chosen_whatever_the_distance() -> None:
    quantizer = IndexQuantizer(IbqConfig(base_channels=32, codebook_size=3, embed_dim=2), cpu)
    quantizer.embedding.weight.set_data(Tensor(np.array([[1, 0], [9, 0], [0, 1]], np.float32)))
    latents_NC = np.array([[1, 0], [-1, 2], [-1, -1]], np.float32)
    codes = quantizer.nearest_codes(Tensor(latents_NC.T.reshape(1, 1, 2, 1, 3)))
    assert codes.asnumpy().reshape(-1).tolist() == [1, 2, 0]
