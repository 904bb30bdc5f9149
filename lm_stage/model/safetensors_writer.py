"""Writes safetensors, including bfloat16, which numpy does not have.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lm_stage.model.options import SAVE_DTYPES

_ALIGNMENT = 8


class RawTensor(NamedTuple):
    """A tensor as a file stores it: the format's name of the type, the shape and the bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def raw_tensor(values: np.ndarray, dtype: str) -> RawTensor:
    """Convert float32 values to `float32`, `float16` or `bfloat16`, rounding to the nearest, ties to even."""
    if dtype == "bfloat16":
        values = _bfloat16_bits(np.ascontiguousarray(values, np.float32))
    else:
        values = np.ascontiguousarray(values.astype(dtype))
    return RawTensor(SAVE_DTYPES[dtype], values.shape, values.reshape(-1).view(np.uint8).data)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 values, rounded; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")


def safetensors_bytes(tensors: Mapping[str, RawTensor]) -> bytes:
    """Return the content of a file. Wider types come first, so that every tensor is aligned, then names in order."""
    ordered = _ordered(tensors)
    return b"".join((_header(ordered), *(tensor.data for tensor in ordered.values())))


def write_safetensors(path: Path, tensors: Mapping[str, RawTensor]) -> None:
    """Write the file that `safetensors_bytes` returns, one tensor at a time, and make it durable."""
    ordered = _ordered(tensors)
    with path.open("xb") as file:
        file.write(_header(ordered))
        for tensor in tqdm(ordered.values(), path.name, unit="tensor", disable=None, leave=False):
            file.write(tensor.data)
        file.flush()
        os.fsync(file.fileno())


def _ordered(tensors: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: (-_width(tensors[name]), name))}


def _header(ordered: Mapping[str, RawTensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered.items():
        begin, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % _ALIGNMENT)
    return len(described).to_bytes(8, "little") + described


def _width(tensor: RawTensor) -> float:
    """Return the bytes of an element."""
    return len(tensor.data) / max(1, int(np.prod(tensor.shape, dtype=np.int64)))
