"""Writes safetensors tensor by tensor, so that no more than one of them is in memory; also bfloat16, which numpy lacks.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from shared.storage.safetensors_reader import NUMPY_DTYPES, StoredTensor

_FORMAT_DTYPES = {np.dtype(numpy): name for name, numpy in NUMPY_DTYPES.items() if name != "BF16"}
_ALIGNMENT = 8
_PIECE = 1 << 18  # values that are converted and written at once


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor to save: the format's name of its type, its shape, and `read`, which returns the values.

    `read` is called when the tensor is written. Its values are float32, or of the type in which they are stored,
    bfloat16 as its bits. `is_collective`: all processes that train together must call it; see `read_collective`.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    is_collective: bool = False

    @property
    def item_bytes(self) -> int:
        return np.dtype(NUMPY_DTYPES[self.dtype]).itemsize

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes as they are stored."""
        values = self.read().reshape(-1)
        for begin in range(0, len(values), _PIECE):
            piece = _converted(values[begin : begin + _PIECE], self.dtype)
            yield np.ascontiguousarray(piece).view(np.uint8).data


TensorFile = Mapping[str, SavedTensor]  # the tensors of a file by name


def array_tensor(values: np.ndarray) -> SavedTensor:
    """Return an array as a tensor of its own type."""
    return SavedTensor(_FORMAT_DTYPES[values.dtype], values.shape, lambda: values)


def stored_tensor(stored: StoredTensor) -> SavedTensor:
    """Return a tensor of another file, to be copied byte by byte."""
    return SavedTensor(
        stored.dtype, stored.shape, lambda: np.frombuffer(stored.data, np.dtype(NUMPY_DTYPES[stored.dtype]))
    )


def _converted(values: np.ndarray, dtype: str) -> np.ndarray:
    """Convert float32 values to a type of the format, rounding to the nearest, ties to even."""
    if values.dtype == np.dtype(NUMPY_DTYPES[dtype]):
        return values
    return _bfloat16_bits(values) if dtype == "BF16" else values.astype(NUMPY_DTYPES[dtype])


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 values, rounded; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def write_safetensors(path: Path, tensors: TensorFile) -> str:
    """Create a file, make it durable, and return its SHA-256.

    The types of most bytes come first, so that every tensor is aligned, then names in order.
    """
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in _content(_ordered(tensors), path.name):
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read_collective(tensors: TensorFile) -> None:
    """Read what is collective, in the order in which another process reads it in `write_safetensors`."""
    for tensor in _ordered(tensors).values():
        if tensor.is_collective:
            tensor.read()


def _ordered(tensors: TensorFile) -> TensorFile:
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: (-tensors[name].item_bytes, name))}


def _content(ordered: TensorFile, title: str) -> Iterator[bytes | memoryview]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered.items():
        begin, end = end, end + tensor.size_bytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % _ALIGNMENT)
    yield len(described).to_bytes(8, "little") + described
    for tensor in tqdm(ordered.values(), title, unit="tensor", disable=None, leave=False):
        yield from tensor.pieces()
