"""Rows of answers: to Arrow and back, with the codes of their images, and damage to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.dataset.columns import columns_of
from shared.dataset.rows import AnswerPart, AnswerRecord, damaged_keys, from_record_batch, to_record_batches
from shared.dataset.settings import ANSWER_FORMAT
from shared.errors import ShapeError

texts = st.builds(AnswerPart, st.sampled_from(["text", "reasoning", "image_reasoning"]), st.text(max_size=5))
images = st.builds(lambda h, w: AnswerPart("image", None, h, w), st.integers(1, 4), st.integers(1, 4))


def answer(parts: list[AnswerPart], dtype: str = "uint16") -> AnswerRecord:
    count = sum(part.h * part.w for part in parts)
    codes = np.arange(count, dtype=dtype).reshape(1, 1, -1)
    common = {"src_uri": "p#1", "src_sha256": bytes(32), "src_h": 0, "src_w": 0}
    return AnswerRecord("key", 0, "answer", codes, "text", parts=tuple(parts), tokens=[1, 70000], **common)


@settings(deadline=None)
@given(st.lists(texts | images, max_size=5), st.sampled_from(["uint16", "uint32"]))
def test_answers_survive_arrow(parts: list[AnswerPart], dtype: str) -> None:
    row = answer(parts, dtype)
    [batch] = to_record_batches([row, replace(row, key="other")])
    assert batch.schema.equals(columns_of(ANSWER_FORMAT, dtype))
    batch.validate(full=True)
    assert damaged_keys(batch) == []
    found, other = from_record_batch(batch)
    assert isinstance(found, AnswerRecord)
    assert (found.parts, found.codes_THW.dtype, found.digest()) == (row.parts, row.codes_THW.dtype, row.digest())
    assert other.digest() != row.digest()
    assert [image.shape for image in found.images()] == [(part.h, part.w) for part in parts if part.h]
    for image, expected in zip(found.images(), row.images()):
        np.testing.assert_array_equal(image, expected)
    assert (found.has_grid, found.grid_THW) == (False, (0, 0, 0))


def test_damaged_codes_are_noticed() -> None:
    [batch] = to_record_batches([answer([AnswerPart("image", None, 2, 2)])])
    for name, values in (("codes_crc32", [1]), ("parts", [[{"kind": "image", "text": None, "h": 3, "w": 2}]])):
        field = batch.schema.field(name)
        columns = [pa.array(values, field.type) if one.name == name else batch.column(one.name) for one in batch.schema]
        assert damaged_keys(pa.RecordBatch.from_arrays(columns, schema=batch.schema)) == ["key"]


def test_codes_without_their_image_are_refused() -> None:
    with pytest.raises(ShapeError, match="key: 4 codes, expected those of 0 parts"):
        replace(answer([AnswerPart("image", None, 2, 2)]), parts=())
