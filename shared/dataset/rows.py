"""The rows of a dataset: one image or video each, its codes and its source.

The vision stage writes `emu3.codes/1`; the language stage writes `emu3.seq/1`, which has more columns.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from shared.codec import CODE_DTYPES, Codec
from shared.dataset.settings import CODES_FORMAT, ROW_FORMATS, SEQUENCE_FORMAT
from shared.errors import ShapeError
from shared.storage.digests import canonical_json

KINDS = ("image", "video")
SHAPE = ("t", "h", "w")
MAX_ROWS_PER_BATCH = 256
_CODE_TYPES = tuple(map(np.dtype, CODE_DTYPES))

_BEFORE_CODES = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("src_index", pa.int64(), nullable=False),
    pa.field("kind", pa.string(), nullable=False),
    pa.field("t", pa.uint16(), nullable=False),
    pa.field("h", pa.uint16(), nullable=False),
    pa.field("w", pa.uint16(), nullable=False),
]
_AFTER_CODES = [
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
_OF_SEQUENCES = [
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


@cache
def columns_of(row_format: str, code_dtype: str) -> pa.Schema:
    """Return the columns of a row format whose codes have a type of `CODE_DTYPES`."""
    items = pa.field("item", pa.type_for_alias(code_dtype), nullable=False)
    columns = [*_BEFORE_CODES, pa.field("codes", pa.large_list(items), nullable=False), *_AFTER_CODES]
    return pa.schema(columns + (_OF_SEQUENCES if row_format == SEQUENCE_FORMAT else []))


ALL_COLUMNS = tuple(columns_of(row_format, dtype) for row_format in ROW_FORMATS for dtype in CODE_DTYPES)


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """One row. `codes_THW` is uint16 or uint32 of shape (t, h, w), as the codec says (see `check_code_dtype`).

    `src_h` and `src_w` are the size of the upright source. Raises ShapeError on construction for any other array or an
    unknown kind.
    """

    format: ClassVar[str] = CODES_FORMAT

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
        if codes.ndim != 3 or codes.dtype not in _CODE_TYPES or (self.has_grid and not codes.size):
            expected = " or ".join(CODE_DTYPES)
            raise ShapeError(f"{self.key}: codes: expected {expected} (t, h, w), got {codes.dtype} {codes.shape}")
        if self.kind not in KINDS:
            raise ShapeError(f"{self.key}: kind {self.kind!r}: expected one of {', '.join(KINDS)}")

    @property
    def has_grid(self) -> bool:
        """Whether the codes hold a picture: always, except for sequences that failed."""
        return True

    @property
    def code_dtype(self) -> str:
        return self.codes_THW.dtype.name

    @property
    def columns(self) -> pa.Schema:
        return columns_of(self.format, self.code_dtype)

    @property
    def codes_bytes(self) -> bytes:
        """The codes as little-endian integers of their type, in C order."""
        return as_stored(self.codes_THW).tobytes()

    @property
    def codes_crc32(self) -> int:
        return zlib.crc32(as_stored(self.codes_THW).data)

    def digest(self) -> bytes:
        """Return the SHA-256 of all columns, 32 bytes; it is the same in every file format."""
        names = (name for name in self.columns.names if name not in (*SHAPE, "codes", "codes_crc32"))
        values = {name: getattr(self, name) for name in names} | dict(zip(SHAPE, self.codes_THW.shape))
        values["src_sha256"] = self.src_sha256.hex()
        return hashlib.sha256(canonical_json(values).encode() + b"\0" + self.codes_bytes).digest()


@dataclass(frozen=True, slots=True)
class SequenceRecord(CodeRecord):
    """One generated sequence. `text` is the caption of the prompt file, `prompt` the full text of the prompt.

    If the sequence is not a valid image or video, `valid` is false, `error` gives the reason, `tokens` holds the raw
    token ids and the grid is empty.
    """

    format: ClassVar[str] = SEQUENCE_FORMAT

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


def as_stored(codes: np.ndarray) -> np.ndarray:
    """Return codes as they are stored: little-endian and contiguous; a copy only if they are not so already."""
    return np.ascontiguousarray(codes, codes.dtype.newbyteorder("<"))


def check_code_dtype(records: Iterable[CodeRecord], codec: Codec) -> None:
    """Raise ShapeError, naming the row, if codes do not have the type in which a dataset of this codec stores them."""
    for record in records:
        if record.code_dtype != codec.code_dtype:
            raise ShapeError(
                f"{record.key}: codes are {record.code_dtype}, expected {codec.code_dtype}: the dataset is of a codec"
                f" with {codec.codebook_size} entries; use the codec that made the codes"
            )


def to_record_batches(records: Sequence[CodeRecord]) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of at most 256 rows, in the order of `records`, whose codes have one type."""
    for start in range(0, len(records), MAX_ROWS_PER_BATCH):
        rows, schema = records[start : start + MAX_ROWS_PER_BATCH], records[0].columns
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
        if zlib.crc32(as_stored(row).data) != checksum or row.size != math.prod(size_THW):
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
