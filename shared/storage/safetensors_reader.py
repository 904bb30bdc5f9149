"""Reads safetensors checkpoints, single or sharded, through a memory map.

The safetensors library cannot convert bfloat16 to numpy; this reader returns every float type as float32.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import CheckpointError
from shared.storage.paths import local_directory

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint file; its values are read by `float32`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def float32(self) -> np.ndarray:
        """Return the values as float32 in `shape`; bfloat16 and float16 are widened exactly."""
        raw = np.frombuffer(self.data, dtype=_DTYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


def read_checkpoint(directory: str | Path) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint directory by name, in alphabetical order.

    Accepts `model.safetensors` or `model.safetensors.index.json` with its shards.
    Raises CheckpointError if a file is missing, truncated or malformed, or a tensor is not in the listed shards.
    """
    directory = local_directory(directory)
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        tensors = {tensor.name: tensor for tensor in _read_file(single)}
    elif index.is_file():
        tensors = _read_sharded(index)
    else:
        raise CheckpointError(f"{directory}: expected {single.name} or {index.name}, found neither")
    return dict(sorted(tensors.items()))


def _read_sharded(index: Path) -> dict[str, StoredTensor]:
    try:
        shard_of: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: expected a JSON object with `weight_map`: {error!r}") from error
    tensors = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {shard!r}: expected a plain file name")
        tensors.update({tensor.name: tensor for tensor in _read_file(index.parent / shard)})
    if missing := sorted(set(shard_of) - set(tensors)):
        raise CheckpointError(f"{index}: {_some(missing)} missing from the listed shards; copy the checkpoint again")
    return tensors


def _read_file(path: Path) -> Iterator[StoredTensor]:
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    length = int.from_bytes(content[:8], "little")
    if length > min(len(content) - 8, _MAX_HEADER_BYTES):
        raise CheckpointError(f"{path}: expected a safetensors header of {length} bytes, file has {len(content)}")
    try:
        header: dict[str, Any] = json.loads(bytes(content[8 : 8 + length]))
    except ValueError as error:
        raise CheckpointError(f"{path}: header is not JSON: {error}") from error
    body = content[8 + length :]
    for name, entry in header.items():
        if name != "__metadata__":
            yield _stored_tensor(path, name, entry, body)


def _stored_tensor(path: Path, name: str, entry: dict[str, Any], body: memoryview) -> StoredTensor:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name}: dtype {dtype}, expected one of {', '.join(_DTYPES)}")
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize
    if end - begin != expected or end > len(body):
        raise CheckpointError(
            f"{path}: tensor {name}: expected {expected} bytes at {begin}, file holds {max(0, len(body) - begin)};"
            " the file is truncated or damaged; copy it again"
        )
    return StoredTensor(name, dtype, shape, body[begin:end])


def rename_tensors(tensors: Mapping[str, StoredTensor], rename: Callable[[str], str]) -> dict[str, StoredTensor]:
    """Return the tensors under new names. Raises CheckpointError if two would share one name."""
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise CheckpointError(
            f"{len(tensors)} tensors have {len(renamed)} names after renaming; the checkpoint mixes two naming schemes"
        )
    return renamed


def check_tensors(where: str, found: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes. Raises CheckpointError naming what is missing, unexpected or has another shape.

    A 1×1 convolution kernel (C, C, 1, 1) passes for the linear weight (C, C) of the other naming scheme.
    """
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"missing {_some(missing)}")
    if extra := sorted(set(found) - set(expected)):
        problems.append(f"extra {_some(extra)}")
    for name in sorted(set(expected) & set(found)):
        got = found[name].shape
        if got != expected[name] and got != (*expected[name], 1, 1):
            problems.append(f"{name}: expected shape {expected[name]}, got {got}")
    if problems:
        raise CheckpointError(f"{where}: weights do not match config.json: {'; '.join(problems[:8])}")


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
