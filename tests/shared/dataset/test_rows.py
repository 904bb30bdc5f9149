"""Rows of encoded images and videos to Arrow and back, checksums, and what enters their digest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.dataset.rows import SCHEMA, CodeRecord, damaged_keys, from_record_batch, to_record_batches
from shared.errors import ShapeError

grids = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)).flatmap(lambda s: arrays(np.uint16, s))
text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
records = st.builds(
    CodeRecord,
    key=text,
    src_index=st.integers(0, 2**62),
    kind=st.sampled_from(["image", "video"]),
    codes_THW=grids,
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


def sample(key: str = "a", **changes: object) -> CodeRecord:
    codes = np.arange(6, dtype=np.uint16).reshape(1, 2, 3)
    return replace(CodeRecord(key, 0, "image", codes, "text", "a.png", bytes(32), 16, 24), **changes)


def same(a: CodeRecord, b: CodeRecord) -> bool:
    return a.digest() == b.digest() and np.array_equal(a.codes_THW, b.codes_THW)


@settings(deadline=None)  # the first batch imports pandas
@given(st.lists(records, min_size=1, max_size=5))
def test_records_survive_arrow(rows: list[CodeRecord]) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in to_record_batches(rows):
            writer.write_batch(batch)
    reader = pa.ipc.open_file(sink.getvalue())
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    restored = [row for batch in batches for row in from_record_batch(batch)]
    assert len(restored) == len(rows)
    assert all(same(a, b) for a, b in zip(rows, restored))
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
        {"src_sha256": b"\1" * 32},
        {"fps": 1.0},
    ],
)
def test_every_field_enters_the_digest(changed: dict[str, object]) -> None:
    assert sample().digest() != sample(**changed).digest()


def test_changed_codes_are_named() -> None:
    batch = next(to_record_batches([sample("good"), sample("bad")]))
    values = batch.column("codes").values.to_numpy().copy()
    values[7] ^= 1
    codes = pa.LargeListArray.from_arrays(
        batch.column("codes").offsets, pa.array(values), type=SCHEMA.field("codes").type
    )
    columns = [codes if name == "codes" else batch.column(name) for name in SCHEMA.names]
    assert damaged_keys(pa.RecordBatch.from_arrays(columns, schema=SCHEMA)) == ["bad"]


@pytest.mark.parametrize(
    "changes",
    [
        {"codes_THW": np.zeros((2, 2), np.uint16)},
        {"codes_THW": np.zeros((1, 2, 2), np.int64)},
        {"codes_THW": np.zeros((1, 0, 2), np.uint16)},
        {"kind": "sound"},
    ],
)
def test_rows_that_are_no_rows_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ShapeError):
        sample(**changes)
