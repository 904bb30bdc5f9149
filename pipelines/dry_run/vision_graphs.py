"""The graphs of the vision stage: encoding and decoding of pictures and of clips, and a step of `emu3 train-vq`."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pipelines.dry_run.graphs import Call, Graph, GraphSizes
from shared.codec import TEMPORAL_FACTOR
from shared.device import DTYPES, Device
from vq_stage.model.kernels import select
from vq_stage.model.network import VQModel
from vq_stage.training.options import TrainVQOptions
from vq_stage.training.step import TrainStep


def _tokenizer(sizes: GraphSizes, device: Device) -> VQModel:
    """Build a vision tokenizer without weights, as `VisionTokenizer` does."""
    model = VQModel(sizes.tokenizer, select(device)).compute_in(getattr(ms, device.dtype))
    model.set_train(False)
    return model


def _pixels(sizes: GraphSizes, device: Device, frames: int) -> Tensor:
    shape = (sizes.pictures, frames, 3, sizes.side, sizes.side)
    return Tensor(np.zeros(shape, np.float32), dtype=getattr(ms, device.dtype))


def _encoding(frames: int, sizes: GraphSizes, device: Device) -> Call:
    model, pixels = _tokenizer(sizes, device), _pixels(sizes, device, frames)
    return lambda: model.encode_pixels(pixels)


def _decoding(is_image: bool, sizes: GraphSizes, device: Device) -> Call:
    grid = sizes.side // sizes.tokenizer.spatial_factor
    model, codes = _tokenizer(sizes, device), Tensor(np.zeros((sizes.pictures, 1, grid, grid), np.int32))
    return lambda: model.decode_codes(codes, is_image)


def _training(sizes: GraphSizes, device: Device) -> Call:
    model = VQModel(sizes.tokenizer, select(device))
    model.set_train(True)
    step = TrainStep(model, TrainVQOptions("pictures", "out", config="config.json"))
    return lambda: step(_pixels(sizes, device, 1), Tensor(1.0, ms.float32))


VISION_GRAPHS = (
    Graph("encode images", lambda *built: _encoding(1, *built), DTYPES),
    Graph("encode clips", lambda *built: _encoding(TEMPORAL_FACTOR, *built), DTYPES),
    Graph("decode images", lambda *built: _decoding(True, *built), DTYPES),
    Graph("decode clips", lambda *built: _decoding(False, *built), DTYPES),
    Graph("train-vq step", _training, ("float32",)),
)
