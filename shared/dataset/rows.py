"""The rows of a dataset: one image or video each, its codes and its source.

The vision stage writes `emu3.codes/1`; the language stage writes `emu3.seq/1`, which has more columns.
"""

from __future__ import annotations

import hashlib
import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from shared.dataset.settings import CODES_FORMAT, SEQUENCE_FORMAT
from shared.errors import ShapeError
from shared.storage.digests import canonical_json

KINDS = ("image", "video")
SHAPE = ("t", "h", "w")
MAX_ROWS_PER_BATCH = 256

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("src_index", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("t", pa.uint16(), nullable=False),
        pa.field("h", pa.uint16(), nullable=False),
        pa.field("w", pa.uint16(), nullable=False),
        pa.field("codes", pa.large_list(pa.field("item", pa.uint16(), nullable=False)), nullable=False),
        pa.field("codes_crc32", pa.uint32(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("src_uri", pa.string(), nullable=False),
        pa.field("src_sha256", pa.binary(), nullable=False),
        pa.field("src_h", pa.uint32(), nullable=False),
        pa.field("src_w", pa.uint32(), nullable=False),
        pa.field("fps", pa.float32()),
        pa.field("frame_start", pa.int64()),
        pa.field("frame_stride", pa.int32()),
        pa.field("extra_json", pa.string()),
    ]
)
SEQUENCE_SCHEMA = pa.schema(
    [
        *SCHEMA,
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string()),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("guidance_scale", pa.float64(), nullable=False),
        pa.field("sampling_json", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("valid", pa.bool_(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("tokens", pa.large_list(pa.field("item", pa.uint32(), nullable=False))),
    ]
)
SCHEMAS = {CODES_FORMAT: SCHEMA, SEQUENCE_FORMAT: SEQUENCE_SCHEMA}


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """One row. `codes_THW` is uint16 of shape (t, h, w); `src_h` and `src_w` are the size of the upright source.

    Raises ShapeError on construction for any other array or an unknown kind.
    """

    schema: ClassVar[pa.Schema] = SCHEMA

    key: str
    src_index: int
    kind: str
    codes_THW: np.ndarray
    text: str | None
    src_uri: str
    src_sha256: bytes
    src_h: int
    src_w: int
    fps: float | None = None
    frame_start: int | None = None
    frame_stride: int | None = None
    extra_json: str | None = None

    def __post_init__(self) -> None:
        codes = self.codes_THW
        if codes.ndim != 3 or codes.dtype != np.uint16 or (self.has_grid and not codes.size):
            raise ShapeError(f"{self.key}: codes: expected uint16 (t, h, w), got {codes.dtype} {codes.shape}")
        if self.kind not in KINDS:
            raise ShapeError(f"{self.key}: kind {self.kind!r}: expected one of {', '.join(KINDS)}")

    @property
    def has_grid(self) -> bool:
        """Whether the codes hold a picture: always, except for sequences that failed."""
        return True

    @property
    def codes_bytes(self) -> bytes:
        """The codes as little-endian uint16 in C order."""
        return np.ascontiguousarray(self.codes_THW, dtype="<u2").tobytes()

    @property
    def codes_crc32(self) -> int:
        codes = self.codes_THW
        is_as_stored = codes.flags.c_contiguous and sys.byteorder == "little"
        return zlib.crc32((codes if is_as_stored else np.ascontiguousarray(codes, dtype="<u2")).data)

    def digest(self) -> bytes:
        """Return the SHA-256 of all columns, 32 bytes; it is the same in every file format."""
        names = (name for name in self.schema.names if name not in (*SHAPE, "codes", "codes_crc32"))
        values = {name: getattr(self, name) for name in names} | dict(zip(SHAPE, self.codes_THW.shape))
        values["src_sha256"] = self.src_sha256.hex()
        return hashlib.sha256(canonical_json(values).encode() + b"\0" + self.codes_bytes).digest()


@dataclass(frozen=True, slots=True)
class SequenceRecord(CodeRecord):
    """One generated sequence. `text` is the caption of the prompt file, `prompt` the full text of the prompt.

    If the sequence is not a valid image or video, `valid` is false, `error` gives the reason, `tokens` holds the raw
    token ids and the grid is empty.
    """

    schema: ClassVar[pa.Schema] = SEQUENCE_SCHEMA

    prompt: str = ""
    negative_prompt: str | None = None
    seed: int = 0
    guidance_scale: float = 1.0
    sampling_json: str = "{}"
    finish_reason: str = "complete"
    valid: bool = True
    error: str | None = None
    tokens: tuple[int, ...] | list[int] | None = None

    @property
    def has_grid(self) -> bool:
        return self.valid


def to_record_batches(records: Sequence[CodeRecord]) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of at most 256 rows, in the order of `records`."""
    for start in range(0, len(records), MAX_ROWS_PER_BATCH):
        rows, schema = records[start : start + MAX_ROWS_PER_BATCH], records[0].schema
        yield pa.RecordBatch.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(records: Sequence[CodeRecord], field: pa.Field) -> pa.Array:
    """Return one column of all rows; building column by column is twice as fast as row by row."""
    if field.name == "codes":
        offsets = np.cumsum([0, *(record.codes_THW.size for record in records)], dtype=np.int64)
        values = pa.array(np.concatenate([record.codes_THW for record in records], axis=None))
        return pa.LargeListArray.from_arrays(offsets, values, type=field.type)
    if field.name in SHAPE:
        axis = SHAPE.index(field.name)
        return pa.array([record.codes_THW.shape[axis] for record in records], field.type)
    return pa.array(list(map(attrgetter(field.name), records)), field.type)


def from_record_batch(batch: pa.RecordBatch) -> Iterator[CodeRecord]:
    """Yield the rows of a batch; codes are views of its memory. Their checksums are verified by `damaged_keys`.

    Raises ShapeError if a grid has another number of codes than its size says.
    """
    record_class = SequenceRecord if "prompt" in batch.schema.names else CodeRecord
    codes = batch.column("codes")
    offsets, values = codes.offsets.to_numpy(), codes.values.to_numpy()
    others = batch.select([name for name in batch.schema.names if name not in ("codes", "codes_crc32")])
    for index, row in enumerate(others.to_pylist()):
        shape, row_codes = [row.pop(name) for name in SHAPE], values[offsets[index] : offsets[index + 1]]
        if row_codes.size != math.prod(shape):
            raise ShapeError(f"{row['key']}: {row_codes.size} codes, expected {' × '.join(map(str, shape))}")
        yield record_class(codes_THW=row_codes.reshape(shape), **row)


def damaged_keys(batch: pa.RecordBatch) -> list[str]:
    """Return the keys of the rows whose codes do not match their checksum or shape."""
    codes, damaged = batch.column("codes"), []
    offsets, values = codes.offsets.to_numpy(), codes.values.to_numpy()
    keys, checksums, *sizes_THW = (batch.column(name).to_pylist() for name in ("key", "codes_crc32", *SHAPE))
    for index, (key, checksum, *size_THW) in enumerate(zip(keys, checksums, *sizes_THW)):
        row = values[offsets[index] : offsets[index + 1]]
        if zlib.crc32(row.astype("<u2").tobytes()) != checksum or row.size != math.prod(size_THW):
            damaged.append(str(key))
    return damaged


class DatasetDigest:
    """The sum of the SHA-256 of all rows modulo 2**256, hashed with the dataset's fingerprints to 64 hex digits.

    It does not depend on the order of the rows, on how they are split into files, or on the file format.
    """

    def __init__(self, fingerprints: Mapping[str, Any]):
        self._sum = 0
        self._rows = 0
        self._fingerprints = dict(fingerprints)

    def add(self, row_digests: Iterable[bytes]) -> None:
        for digest in row_digests:
            self._sum = (self._sum + int.from_bytes(digest, "big")) % (1 << 256)
            self._rows += 1

    def hexdigest(self) -> str:
        header = canonical_json({"rows": self._rows, "fingerprints": self._fingerprints})
        return hashlib.sha256(header.encode() + b"\0" + self._sum.to_bytes(32, "big")).hexdigest()
