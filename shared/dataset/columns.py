"""The columns of a dataset's rows, by row format and code type.

`emu3.codes/1` has codes and where they come from, `emu3.seq/1` also how they were generated, and `emu3.answer/1` also
the parts of an answer.
"""

from __future__ import annotations

from functools import cache

import pyarrow as pa

from shared.codec import CODE_DTYPES
from shared.dataset.settings import ANSWER_FORMAT, CODES_FORMAT, ROW_FORMATS, SEQUENCE_FORMAT

KINDS = ("image", "video")  # of rows with a grid
ANSWER_KIND = "answer"
SHAPE = ("t", "h", "w")

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
_OF_PARTS = [
    pa.field("kind", pa.string(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("h", pa.uint16(), nullable=False),
    pa.field("w", pa.uint16(), nullable=False),
]
_OF_ANSWERS = [pa.field("parts", pa.large_list(pa.field("item", pa.struct(_OF_PARTS), nullable=False)), nullable=False)]
_ADDED_COLUMNS = {CODES_FORMAT: [], SEQUENCE_FORMAT: _OF_SEQUENCES, ANSWER_FORMAT: [*_OF_SEQUENCES, *_OF_ANSWERS]}


@cache
def columns_of(row_format: str, code_dtype: str) -> pa.Schema:
    """Return the columns of a row format whose codes have a type of `CODE_DTYPES`."""
    items = pa.field("item", pa.type_for_alias(code_dtype), nullable=False)
    columns = [*_BEFORE_CODES, pa.field("codes", pa.large_list(items), nullable=False), *_AFTER_CODES]
    return pa.schema(columns + _ADDED_COLUMNS[row_format])


ALL_COLUMNS = tuple(columns_of(row_format, dtype) for row_format in ROW_FORMATS for dtype in CODE_DTYPES)
