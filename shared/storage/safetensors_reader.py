"""Reads safetensors checkpoints, single or sharded, through a memory map.

The safetensors library cannot convert bfloat16 to numpy; this reader returns every float type as float32.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, raw tensors).
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

import numpy as np

from shared.errors import CheckpointError
from shared.storage.paths import is_file_name, local_directory
from shared.storage.small_files import parse_json_object, read_json_object

# numpy's type for each type of the format; those of bfloat16 are its bits.
NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U64": "<u8", "I64": "<i8", "I32": "<i4"}
NUMPY_DTYPES |= {"U8": "|u1"}
_MAX_HEADER_BYTES = 10_000_000  # of about 100 000 tensors
_MAX_INDEX_BYTES = 10_000_000
_MAX_RANK, _MAX_SIDE = 16, 1 << 40
_LFS_POINTER = b"version https://git-lfs"


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
        raw = np.frombuffer(self.data, dtype=NUMPY_DTYPES[self.dtype]).reshape(self.shape)
        if self.dtype == "BF16":
            bits = raw.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
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


def read_files(paths: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return the tensors of some files by name. Raises CheckpointError if a file is malformed or a name is repeated."""
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for tensor in _read_file(path):
            if tensor.name in tensors:
                raise CheckpointError(f"{path}: tensor {tensor.name[:200]}: also in another file beside it")
            tensors[tensor.name] = tensor
    return tensors


def _read_sharded(index: Path) -> dict[str, StoredTensor]:
    shard_of = read_json_object(index, _MAX_INDEX_BYTES, CheckpointError).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index}: weight_map: expected an object of file names by tensor, got {shard_of!r:.80}")
    tensors = {}
    for shard in sorted(set(shard_of.values())):
        if not is_file_name(shard):
            raise CheckpointError(f"{index}: shard {shard!r}: expected a plain file name")
        tensors.update({tensor.name: tensor for tensor in _read_file(index.parent / shard)})
    if missing := sorted(set(shard_of) - set(tensors)):
        raise CheckpointError(f"{index}: {_some(missing)} missing from the listed shards; copy the checkpoint again")
    return tensors


def _read_file(path: Path) -> list[StoredTensor]:
    """Return the tensors of a file. Raises CheckpointError, naming file and tensor, if the header is wrong."""
    content = _map(path)
    length = int.from_bytes(content[:8], "little")
    if bytes(content[: len(_LFS_POINTER)]) == _LFS_POINTER:
        raise CheckpointError(f"{path}: a Git LFS pointer in place of the file; run `git lfs pull`")
    if length > min(len(content) - 8, _MAX_HEADER_BYTES):
        raise CheckpointError(
            f"{path}: a safetensors header of {length} bytes in a file of {len(content)}, expected at most"
            f" {_MAX_HEADER_BYTES}; the file is damaged or not safetensors"
        )
    header = parse_json_object(bytes(content[8 : 8 + length]), f"{path}: header", CheckpointError)
    body = content[8 + length :]
    spans = {
        name: _checked_span(f"{path}: tensor {name[:200]}", entry, len(body))
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_overlaps(path, spans)
    return [
        StoredTensor(name, header[name]["dtype"], tuple(header[name]["shape"]), body[begin:end])
        for name, (begin, end) in spans.items()
    ]


def _map(path: Path) -> memoryview:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would wait for its writer
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError(f"{path}: expected a regular file")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _checked_span(where: str, entry: object, body_bytes: int) -> tuple[int, int]:
    """Return the first byte of a tensor and the byte after its last. Raises CheckpointError if its entry is wrong."""
    values = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = values.get("dtype"), values.get("shape"), values.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in NUMPY_DTYPES:
        raise CheckpointError(f"{where}: dtype {dtype!r:.40}, expected one of {', '.join(NUMPY_DTYPES)}")
    if not _are_counts(shape) or len(shape) > _MAX_RANK or max(shape, default=0) > _MAX_SIDE:
        raise CheckpointError(f"{where}: shape {shape!r:.80}, expected a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"{where}: data_offsets {offsets!r:.80}, expected the first byte and the byte after the last"
        )
    begin, end = offsets
    expected = math.prod(shape) * np.dtype(NUMPY_DTYPES[dtype]).itemsize
    if end - begin != expected or end > body_bytes:
        raise CheckpointError(
            f"{where}: expected {expected} bytes of {dtype} {shape!r:.80}, got bytes {begin} to {end} of {body_bytes};"
            " the file is truncated or damaged; copy it again"
        )
    return begin, end


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_overlaps(path: Path, spans: Mapping[str, tuple[int, int]]) -> None:
    """Raise CheckpointError if two tensors share bytes."""
    ordered = sorted((span, name) for name, span in spans.items() if span[0] < span[1])
    for ((_, end), name), ((begin, _), other) in pairwise(ordered):
        if begin < end:
            raise CheckpointError(f"{path}: tensors {name} and {other} overlap at byte {begin}; the file is damaged")


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
