"""The graphs of the vision stage: encoding and decoding of pictures and of clips, and a step of `emu3 train-vq`."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pipelines.dry_run.graphs import Call, Graph, GraphSizes
from shared.codec import EMU3
from shared.device import DTYPES, Device
from vq_stage.model.autoencoder import Autoencoder
from vq_stage.model.families import TokenizerConfig, build_network
from vq_stage.model.kernels import select
from vq_stage.training.methods import method_of
from vq_stage.training.options import TrainVQOptions


def _network(config: TokenizerConfig, device: Device) -> Autoencoder:
    """Build the network of a vision tokenizer without weights, as `VisionTokenizer` does."""
    network = build_network(config, select(device)).compute_in(getattr(ms, device.dtype))
    network.set_train(False)
    return network


def _pixels(sizes: GraphSizes, device: Device, frames: int) -> Tensor:
    shape = (sizes.pictures, frames, 3, sizes.side, sizes.side)
    return Tensor(np.zeros(shape, np.float32), dtype=getattr(ms, device.dtype))


def _encoding(config: TokenizerConfig, frames: int, sizes: GraphSizes, device: Device) -> Call:
    network, pixels = _network(config, device), _pixels(sizes, device, frames)
    return lambda: network.encode_pixels(pixels)


def _decoding(config: TokenizerConfig, is_image: bool, sizes: GraphSizes, device: Device) -> Call:
    grid = sizes.side // config.spatial_factor
    network, codes = _network(config, device), Tensor(np.zeros((sizes.pictures, 1, grid, grid), np.int32))
    return lambda: network.decode_codes(codes, is_image)


def _training(config: TokenizerConfig, sizes: GraphSizes, device: Device) -> Call:
    network = build_network(config, select(device))
    network.set_train(True)
    step = method_of(config).step(network, TrainVQOptions("pictures", "out", config="config.json"))
    return lambda: step(_pixels(sizes, device, 1), Tensor(1.0, ms.float32))


VISION_GRAPHS = (
    Graph("encode images", lambda sizes, device: _encoding(sizes.tokenizer, 1, sizes, device), DTYPES),
    Graph(
        "encode clips", lambda sizes, device: _encoding(sizes.tokenizer, EMU3.temporal_factor, sizes, device), DTYPES
    ),
    Graph("decode images", lambda sizes, device: _decoding(sizes.tokenizer, True, sizes, device), DTYPES),
    Graph("decode clips", lambda sizes, device: _decoding(sizes.tokenizer, False, sizes, device), DTYPES),
    Graph("train-vq step", lambda sizes, device: _training(sizes.tokenizer, sizes, device), ("float32",)),
    Graph("encode images, IBQ", lambda sizes, device: _encoding(sizes.image_tokenizer, 1, sizes, device), DTYPES),
    Graph("decode images, IBQ", lambda sizes, device: _decoding(sizes.image_tokenizer, True, sizes, device), DTYPES),
    Graph("train-vq step, IBQ", lambda sizes, device: _training(sizes.image_tokenizer, sizes, device), ("float32",)),
)
