"""The rows of a dataset: one image or video each, its codes and its source.

The vision stage writes `emu3.codes/1`. The language stage writes `emu3.seq/1`, which has more columns, and for answers
of text and images `emu3.answer/1`, whose rows have any number of images.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from shared.codec import CODE_DTYPES, Codec
from shared.dataset.columns import ANSWER_KIND, KINDS, SHAPE, columns_of
from shared.dataset.settings import ANSWER_FORMAT, CODES_FORMAT, SEQUENCE_FORMAT
from shared.errors import ShapeError
from shared.storage.digests import canonical_json

MAX_ROWS_PER_BATCH = 256
DEFAULT_FPS = 8.0  # of videos without a frame rate of their own
_CODE_TYPES = tuple(map(np.dtype, CODE_DTYPES))
_ALL_KINDS = (*KINDS, ANSWER_KIND)


@dataclass(slots=True)
class CodeRecord:
    """One row. `codes_THW` is uint16 or uint32 of shape (t, h, w), as the codec says (see `check_code_dtype`).

    `src_h` and `src_w` are the size of the upright source. Raises ShapeError on construction for any other array or an
    unknown kind. It never changes, but it is not frozen, because building a frozen one takes four times as long.
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
        if self.kind not in _ALL_KINDS:
            raise ShapeError(f"{self.key}: kind {self.kind!r}: expected one of {', '.join(_ALL_KINDS)}")

    @property
    def grid_THW(self) -> tuple[int, ...]:
        """The size of the grid."""
        return self.codes_THW.shape

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

    def stored(self, name: str) -> Any:
        """Return the value of a column other than the codes and their shape."""
        return getattr(self, name)

    def digest(self) -> bytes:
        """Return the SHA-256 of all columns, 32 bytes; it is the same in every file format."""
        names = (name for name in self.columns.names if name not in (*SHAPE, "codes", "codes_crc32"))
        values = {name: self.stored(name) for name in names} | dict(zip(SHAPE, self.grid_THW))
        values["src_sha256"] = self.src_sha256.hex()
        return hashlib.sha256(canonical_json(values).encode() + b"\0" + self.codes_bytes).digest()


@dataclass(slots=True)
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


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A part of an answer: text, reasoning, image_reasoning, or an image of `h` × `w` codes."""

    kind: str
    text: str | None = None
    h: int = 0
    w: int = 0


@dataclass(slots=True)
class AnswerRecord(SequenceRecord):
    """One answer of text and images: its parts in order, and its whole sequence as `tokens`.

    It has no grid of its own: `codes_THW` (1, 1, n) holds the codes of all its images, one after another.
    """

    format: ClassVar[str] = ANSWER_FORMAT

    parts: tuple[AnswerPart, ...] = ()

    def __post_init__(self) -> None:
        CodeRecord.__post_init__(self)  # `super()` fails in a dataclass with slots
        if self.codes_THW.size != codes_in_parts(map(asdict, self.parts)):
            raise ShapeError(f"{self.key}: {self.codes_THW.size} codes, expected those of {len(self.parts)} parts")

    @property
    def grid_THW(self) -> tuple[int, ...]:
        return 0, 0, 0

    @property
    def has_grid(self) -> bool:
        return False

    def stored(self, name: str) -> Any:
        return [asdict(part) for part in self.parts] if name == "parts" else getattr(self, name)

    def images(self) -> Iterator[np.ndarray]:
        """Yield the codes (H, W) of each image."""
        begin, codes = 0, self.codes_THW.reshape(-1)
        for part in self.parts:
            if part.h:
                yield codes[begin : begin + part.h * part.w].reshape(part.h, part.w)
                begin += part.h * part.w


def codes_in_parts(parts: Iterable[Mapping[str, Any]]) -> int:
    """Return the number of codes in the images of an answer, given its parts as they are stored."""
    return sum(part["h"] * part["w"] for part in parts)


def as_stored(codes: np.ndarray) -> np.ndarray:
    """Return codes as they are stored: little-endian and contiguous; a copy only if they are not so already."""
    return codes.astype(codes.dtype.newbyteorder("<"), "C", copy=False)


def check_code_dtype(records: Iterable[CodeRecord], codec: Codec) -> None:
    """Raise ShapeError, naming the row, if codes do not have the type in which a dataset of this codec stores them."""
    expected = np.dtype(codec.code_dtype)
    for record in records:
        if record.codes_THW.dtype != expected:  # without its name, which takes a tenth of a row's time
            raise ShapeError(
                f"{record.key}: codes are {record.code_dtype}, expected {codec.code_dtype}: the dataset is of a codec"
                f" with {codec.codebook_size} entries; use the codec that made the codes"
            )


def to_record_batches(records: Sequence[CodeRecord]) -> Iterator[pa.RecordBatch]:
    """Yield Arrow batches of at most 256 rows, in the order of `records`, whose codes have one type."""
    for start in range(0, len(records), MAX_ROWS_PER_BATCH):
        rows, schema = records[start : start + MAX_ROWS_PER_BATCH], records[0].columns
        of_codes = _columns_of_codes(rows, schema.field("codes").type)
        columns = [of_codes.get(field.name) or _values(rows, field.name) for field in schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _columns_of_codes(records: Sequence[CodeRecord], list_type: pa.DataType) -> dict[str, Any]:
    """Return the columns that follow from the codes of all rows; those of a batch are hashed in one buffer."""
    codes = as_stored(np.concatenate([record.codes_THW for record in records], axis=None))
    offsets = np.cumsum([0, *(record.codes_THW.size for record in records)], dtype=np.int64)
    content, ends = memoryview(codes.tobytes()), (codes.itemsize * offsets).tolist()
    return {
        "codes": pa.LargeListArray.from_arrays(offsets, pa.array(codes), type=list_type),
        "codes_crc32": [zlib.crc32(content[begin:end]) for begin, end in pairwise(ends)],
        **dict(zip(SHAPE, zip(*(record.grid_THW for record in records)))),
    }


def _values(records: Sequence[CodeRecord], name: str) -> list[Any]:
    """Return the values of one column; building column by column is twice as fast as row by row."""
    if name == "parts":
        return [record.stored(name) for record in records]
    return list(map(attrgetter(name), records))


def from_record_batch(batch: pa.RecordBatch) -> Iterator[CodeRecord]:
    """Yield the rows of a batch; codes are views of its memory. Their checksums are verified by `damaged_keys`.

    Raises ShapeError if a grid has another number of codes than its size says.
    """
    build = _record_class(batch.schema)
    codes = batch.column("codes")
    offsets, values = codes.offsets.to_numpy(), codes.values.to_numpy()
    others = batch.select([name for name in batch.schema.names if name not in ("codes", "codes_crc32")])
    for index, row in enumerate(others.to_pylist()):
        shape, row_codes = [row.pop(name) for name in SHAPE], values[offsets[index] : offsets[index + 1]]
        if "parts" in row:
            parts, shape = row.pop("parts"), [1, 1, row_codes.size]
            row["parts"] = tuple(AnswerPart(**part) for part in parts)
        if row_codes.size != math.prod(shape):
            raise ShapeError(f"{row['key']}: {row_codes.size} codes, expected {' × '.join(map(str, shape))}")
        yield build(codes_THW=row_codes.reshape(shape), **row)


def _record_class(schema: pa.Schema) -> type[CodeRecord]:
    if "parts" in schema.names:
        return AnswerRecord
    return SequenceRecord if "prompt" in schema.names else CodeRecord


def damaged_keys(batch: pa.RecordBatch) -> list[str]:
    """Return the keys of the rows whose codes do not match their checksum or shape."""
    codes, damaged = batch.column("codes"), []
    offsets, values = codes.offsets.to_numpy(), codes.values.to_numpy()
    keys, checksums = (batch.column(name).to_pylist() for name in ("key", "codes_crc32"))
    for index, (key, checksum, count) in enumerate(zip(keys, checksums, _code_counts(batch))):
        row = values[offsets[index] : offsets[index + 1]]
        if zlib.crc32(as_stored(row).data) != checksum or row.size != count:
            damaged.append(str(key))
    return damaged


def _code_counts(batch: pa.RecordBatch) -> list[int]:
    """Return how many codes each row should have."""
    if "parts" in batch.schema.names:
        return list(map(codes_in_parts, batch.column("parts").to_pylist()))
    return [math.prod(size_THW) for size_THW in zip(*(batch.column(name).to_pylist() for name in SHAPE))]


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
