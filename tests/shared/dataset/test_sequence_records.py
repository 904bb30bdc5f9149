"""Rows of generated sequences to Arrow and back, and what enters their digest."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.dataset.rows import (
    CodeRecord,
    SequenceRecord,
    damaged_keys,
    from_record_batch,
    to_record_batches,
)
from shared.errors import ShapeError
from tests.support import handmade
from tests.support.sequences import EMPTY_GRID, broken, described, sequence

text = st.text(st.characters(blacklist_categories=["Cs"]), max_size=10)
grids = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)).flatmap(lambda s: arrays(np.uint16, s))
common: dict[str, Any] = {
    "key": text,
    "src_index": st.integers(0, 2**62),
    "kind": st.sampled_from(["image", "video"]),
    "text": st.none() | text,
    "src_uri": text,
    "src_sha256": st.binary(min_size=32, max_size=32),
    "src_h": st.integers(0, 2**32 - 1),
    "src_w": st.integers(0, 2**32 - 1),
    "prompt": text,
    "negative_prompt": st.none() | text,
    "seed": st.integers(-(2**63), 2**63 - 1),
    "guidance_scale": st.floats(allow_nan=False, allow_infinity=False),
    "sampling_json": st.just('{"top_k":50}'),
}
valid_rows = st.builds(SequenceRecord, codes_THW=grids, **common)
invalid_rows = st.builds(
    SequenceRecord,
    codes_THW=st.sampled_from([EMPTY_GRID, np.zeros((1, 0, 4), np.uint16)]),
    valid=st.just(False),
    finish_reason=st.sampled_from(["length", "bad_token"]),
    error=text,
    tokens=st.lists(st.integers(0, 2**32 - 1), max_size=6),
    **common,
)


@given(st.lists(valid_rows | invalid_rows, min_size=1, max_size=5))
def test_sequences_survive_arrow(rows: list[SequenceRecord]) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows[0].columns) as writer:
        for batch in to_record_batches(rows):
            writer.write_batch(batch)
    reader = pa.ipc.open_file(sink.getvalue())
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    restored = [row for batch in batches for row in from_record_batch(batch)]
    assert all(type(row) is SequenceRecord for row in restored)
    assert [described(row) for row in restored] == [described(row) for row in rows]
    assert [row.digest() for row in restored] == [row.digest() for row in rows]
    assert not [key for batch in batches for key in damaged_keys(batch)]


def test_codes_alone_do_not_come_back_as_sequences() -> None:
    [row] = from_record_batch(next(to_record_batches([handmade.record(0, "one")])))
    assert type(row) is CodeRecord


@pytest.mark.parametrize(
    "changes",
    [
        {"codes_THW": EMPTY_GRID},
        {"codes_THW": np.zeros((0, 0), np.uint16), "valid": False},
        {"codes_THW": np.zeros((0, 0, 0), np.int32), "valid": False},
        {"kind": "text", "valid": False},
    ],
)
def test_rows_that_are_no_sequences_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ShapeError):
        sequence(**changes)


def test_changed_codes_are_named_beside_empty_grids() -> None:
    rows = [broken(0, "empty"), sequence(1, "good"), sequence(2, "bad"), broken(3, "empty too")]
    batch = next(to_record_batches(rows))
    values = batch.column("codes").values.to_numpy().copy()
    values[6] ^= 1
    field = batch.schema.field("codes")
    codes = pa.LargeListArray.from_arrays(batch.column("codes").offsets, pa.array(values), type=field.type)
    columns = [codes if name == "codes" else batch.column(name) for name in batch.schema.names]
    assert damaged_keys(pa.RecordBatch.from_arrays(columns, schema=batch.schema)) == ["bad"]


CHANGES: dict[str, Any] = {
    "key": "b",
    "src_index": 1,
    "kind": "video",
    "codes_THW": np.zeros((1, 2, 3), np.uint16),
    "text": None,
    "src_uri": "p#2",
    "src_sha256": b"\1" * 32,
    "src_h": 24,
    "src_w": 16,
    "fps": 1.0,
    "frame_start": 0,
    "frame_stride": 1,
    "extra_json": "{}",
    "prompt": "a pear",
    "negative_prompt": None,
    "seed": 6,
    "guidance_scale": 3.5,
    "sampling_json": '{"top_k":1}',
    "finish_reason": "length",
    "valid": False,
    "error": "",
    "tokens": (),
}


@pytest.mark.parametrize("name", [field.name for field in fields(SequenceRecord)])
def test_every_field_enters_the_digest(name: str) -> None:
    assert sequence(**{name: CHANGES[name]}).digest() != sequence().digest()


def test_the_shape_and_every_token_enter_the_digest() -> None:
    grid = sequence().codes_THW
    assert sequence(codes_THW=grid.reshape(1, 3, 2)).digest() != sequence().digest()
    tokens = [(), (1,), (2,), (1, 2), (2, 1)]
    assert len({broken(0, "a", given).digest() for given in tokens}) == len(tokens)
    assert broken(0, "a", [1, 2]).digest() == broken(0, "a", (1, 2)).digest()  # type: ignore[arg-type]
