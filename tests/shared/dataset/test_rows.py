"""Rows of encoded images and videos to Arrow and back, checksums, and what enters their digest."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.codec import CODE_DTYPES, Codec
from shared.dataset.rows import (
    CodeRecord,
    check_code_dtype,
    columns_of,
    damaged_keys,
    from_record_batch,
    to_record_batches,
)
from shared.dataset.settings import CODES_FORMAT
from shared.errors import ShapeError

sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
other_fields = dict(
    key=text,
    src_index=st.integers(0, 2**62),
    kind=st.sampled_from(["image", "video"]),
    text=st.none() | text,
    src_uri=text,
    src_sha256=st.binary(min_size=32, max_size=32),
    src_h=st.integers(1, 2**32 - 1),
    src_w=st.integers(1, 2**32 - 1),
    fps=st.none() | st.floats(0.125, 240, width=32),
    frame_start=st.none() | st.integers(0, 2**40),
    frame_stride=st.none() | st.integers(1, 2**20),
    extra_json=st.none() | st.just('{"a":1}'),
)


def records(code_dtype: str) -> st.SearchStrategy[CodeRecord]:
    """Return rows whose codes have one type, any value of which occurs."""
    grids = sizes.flatmap(lambda size: arrays(np.dtype(code_dtype), size))
    return st.builds(CodeRecord, codes_THW=grids, **other_fields)  # type: ignore[arg-type]


def sample(key: str = "a", **changes: object) -> CodeRecord:
    codes = np.arange(6, dtype=np.uint16).reshape(1, 2, 3)
    return replace(CodeRecord(key, 0, "image", codes, "text", "a.png", bytes(32), 16, 24), **changes)


def same(a: CodeRecord, b: CodeRecord) -> bool:
    return a.digest() == b.digest() and np.array_equal(a.codes_THW, b.codes_THW)


@settings(deadline=None)  # the first batch imports pandas
@given(st.data(), st.sampled_from(list(CODE_DTYPES)))
def test_records_survive_arrow(data: st.DataObject, code_dtype: str) -> None:
    rows = data.draw(st.lists(records(code_dtype), min_size=1, max_size=5))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, columns_of(CODES_FORMAT, code_dtype)) as writer:
        for batch in to_record_batches(rows):
            writer.write_batch(batch)
    reader = pa.ipc.open_file(sink.getvalue())
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    restored = [row for batch in batches for row in from_record_batch(batch)]
    assert len(restored) == len(rows)
    assert all(same(a, b) for a, b in zip(rows, restored))
    assert {row.code_dtype for row in restored} == {code_dtype}
    assert not [key for batch in batches for key in damaged_keys(batch)]


def test_batches_hold_at_most_256_rows() -> None:
    rows = [sample(str(index)) for index in range(600)]
    assert [batch.num_rows for batch in to_record_batches(rows)] == [256, 256, 88]


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "b"},
        {"text": None},
        {"text": "other"},
        {"src_index": 1},
        {"codes_THW": np.arange(6, dtype=np.uint16).reshape(1, 3, 2)},
        {"codes_THW": np.arange(1, 7, dtype=np.uint16).reshape(1, 2, 3)},
        {"codes_THW": np.arange(6, dtype=np.uint32).reshape(1, 2, 3)},
        {"src_sha256": b"\1" * 32},
        {"fps": 1.0},
    ],
)
def test_every_field_enters_the_digest(changed: dict[str, object]) -> None:
    assert sample().digest() != sample(**changed).digest()


@pytest.mark.parametrize("code_dtype", CODE_DTYPES)
def test_changed_codes_are_named(code_dtype: str) -> None:
    codes_THW = sample().codes_THW.astype(code_dtype)
    batch = next(to_record_batches([sample(key, codes_THW=codes_THW) for key in ("good", "bad")]))
    schema = batch.schema
    values = batch.column("codes").values.to_numpy().copy()
    values[7] ^= 1
    offsets, items = batch.column("codes").offsets, schema.field("codes").type
    codes = pa.LargeListArray.from_arrays(offsets, pa.array(values), type=items)
    columns = [codes if name == "codes" else batch.column(name) for name in schema.names]
    assert damaged_keys(pa.RecordBatch.from_arrays(columns, schema=schema)) == ["bad"]


def test_checksum_and_digest_cover_little_endian_codes_of_their_type() -> None:
    wide = sample(codes_THW=np.array([[[1, 70_000, 131_071]]], np.uint32))
    assert wide.codes_bytes == b"\x01\0\0\0\x70\x11\x01\0\xff\xff\x01\0"
    assert wide.codes_crc32 == zlib.crc32(wide.codes_bytes)
    strided = sample(codes_THW=np.array([[[1, 0, 70_000, 0, 131_071, 0]]], np.uint32)[..., ::2])
    assert strided.digest() == wide.digest()


@pytest.mark.parametrize(("given", "codebook_size"), [("uint32", 65_536), ("uint16", 65_537)])
def test_codes_of_another_type_than_the_codec_stores_are_refused(given: str, codebook_size: int) -> None:
    row = sample("wrong", codes_THW=sample().codes_THW.astype(given))
    expected = "uint16" if given == "uint32" else "uint32"
    with pytest.raises(ShapeError, match=f"wrong: codes are {given}, expected {expected}: .* {codebook_size} entries"):
        check_code_dtype([row], Codec(None, codebook_size, 8, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"codes_THW": np.zeros((2, 2), np.uint16)},
        {"codes_THW": np.zeros((1, 2, 2), np.int64)},
        {"codes_THW": np.zeros((1, 2, 2), ">u2")},
        {"codes_THW": np.zeros((1, 2, 2), np.uint8)},
        {"codes_THW": np.zeros((1, 0, 2), np.uint16)},
        {"kind": "sound"},
    ],
)
def test_rows_that_are_no_rows_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        sample(**changes)
