"""Rows of the language stage: to Arrow and back, within a dataset, by key, and under verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.codec import Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.digest import DatasetDigest
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.quarantine import Refusal
from shared.dataset.readers import KeyReader
from shared.dataset.rows import (
    SEQUENCE_FORMAT,
    SEQUENCE_SCHEMA,
    CodeRecord,
    SequenceRecord,
    damaged_keys,
    from_record_batch,
    to_record_batches,
)
from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError, RefusedInput, ShapeError
from shared.maintenance.verify import verify_dataset
from tests.support import handmade

EMPTY_GRID = np.zeros((0, 0, 0), np.uint16)
SETTINGS = DatasetSettings(Codec("c0dec", 512), format=SEQUENCE_FORMAT, generation={"guidance_scale": 3.0})

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


def sequence(index: int = 0, key: str = "a", **changes: Any) -> SequenceRecord:
    codes = np.random.default_rng(index).integers(0, 512, (1, 2, 3)).astype(np.uint16)
    row = SequenceRecord(key, index, "image", codes, "a pear", "p#1", bytes(32), 16, 24, prompt="a pear, sharp")
    return replace(row, **{"negative_prompt": "blurry", "seed": 5, "guidance_scale": 3.0, **changes})


def broken(index: int, key: str, tokens: Sequence[int] = (300, 70000, 184621)) -> SequenceRecord:
    error = "row 0, offset 1: expected a visual token"
    return sequence(index, key, codes_THW=EMPTY_GRID, valid=False, error=error, tokens=tuple(tokens))


def write(root: Path, units: Sequence[Sequence[CodeRecord]], refused: int = 0, **settings: Any) -> Dataset:
    """A dataset of these units, and one of refused inputs if there are any."""
    root.mkdir()
    planned = [
        Unit(number, 16, 24, tuple(PlannedInput(row.src_index, row.key, row.src_uri) for row in rows))
        for number, rows in enumerate(units)
    ]
    bad = [PlannedInput(900 + index, f"r{index}", "p", None, "too_long", "no") for index in range(refused)]
    planned += [Unit(len(units), 0, 0, tuple(bad))] if bad else []
    freeze_plan(root / "plan.arrow", planned, replace(SETTINGS, **settings), sum(len(unit.inputs) for unit in planned))
    dataset = Dataset(root)
    plan = dataset.plan()
    for number, rows in enumerate(units):
        dataset.commit(UnitResult(number, rows, numerics=handmade.NUMERICS), plan)
    if bad:
        refusals = [Refusal(item.key, item.src_index, item.uri, "too_long", "no") for item in bad]
        dataset.commit(UnitResult(len(units), refusals=refusals), plan)
    dataset.write_manifest(plan)
    return dataset


def described(row: CodeRecord) -> dict[str, Any]:
    """All fields, comparable."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    tokens = values["tokens"] if values["tokens"] is None else list(values["tokens"])
    return {**values, "codes_THW": (row.codes_THW.shape, row.codes_bytes), "tokens": tokens}


def damage(dataset: Dataset, unit: int, data: bytes) -> str:
    """Changes the one place of a part where these bytes stand; returns the part's name."""
    path = dataset.parts / dataset.record(unit).part
    content = path.read_bytes()
    assert content.count(data) == 1, "the place must be found"
    place = content.index(data)
    path.write_bytes(content[:place] + bytes([data[0] ^ 1]) + content[place + 1 :])
    return path.name


@given(st.lists(valid_rows | invalid_rows, min_size=1, max_size=5))
def test_sequences_survive_arrow(rows: list[SequenceRecord]) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SEQUENCE_SCHEMA) as writer:
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
    field = SEQUENCE_SCHEMA.field("codes")
    codes = pa.LargeListArray.from_arrays(batch.column("codes").offsets, pa.array(values), type=field.type)
    columns = [codes if name == "codes" else batch.column(name) for name in SEQUENCE_SCHEMA.names]
    assert damaged_keys(pa.RecordBatch.from_arrays(columns, schema=SEQUENCE_SCHEMA)) == ["bad"]


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


def test_rows_of_a_committed_part_are_those_given(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c", negative_prompt=None)]
    dataset = write(tmp_path / "d", [rows])
    record = dataset.record(0)
    assert [described(row) for row in dataset.rows(record)] == [described(row) for row in rows]
    assert (record.rows, record.captions, record.height, record.width) == (3, 3, 2, 3)
    assert dataset.manifest().settings.format == SEQUENCE_FORMAT
    batch = next(dataset.batches(record))
    assert batch.schema.equals(SEQUENCE_SCHEMA)


def test_a_part_may_begin_with_or_be_all_broken_sequences(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[broken(0, "a"), sequence(1, "b")], [broken(2, "c")]])
    assert [(record.height, record.width) for record in dataset.commit_records()] == [(2, 3), (0, 0)]
    assert [row.tokens for row in dataset.rows(dataset.record(1))] == [[300, 70000, 184621]]
    assert verify_dataset(dataset).problems == []


def test_a_sound_dataset_verifies_to_the_digest_of_its_rows(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c")]
    dataset = write(tmp_path / "d", [rows[:2], rows[2:]], refused=2)
    report = verify_dataset(dataset)
    assert report.problems == []
    assert (report.units, report.planned_units, report.rows, report.quarantined) == (3, 3, 3, 2)
    assert report.is_complete
    digest = DatasetDigest(SETTINGS.fingerprints())
    digest.add(row.digest() for row in rows)
    assert report.digest == digest.hexdigest()


def test_the_digest_tells_rows_and_settings_apart_but_not_cuts(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c")]
    whole = verify_dataset(write(tmp_path / "whole", [rows])).digest
    assert verify_dataset(write(tmp_path / "cut", [[rows[2]], rows[:2]])).digest == whole
    others = [
        write(tmp_path / "row", [[*rows[:2], sequence(2, "c", seed=6)]]),
        write(tmp_path / "generation", [rows], generation={"guidance_scale": 4.0}),
        write(tmp_path / "codec", [rows], codec=Codec("0ther", 512)),
    ]
    assert len({whole, *(verify_dataset(other).digest for other in others)}) == 4


def test_verify_names_the_row_whose_codes_changed(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), sequence(1, "changed"), broken(2, "c")]
    others = [sequence(3, "d")]
    dataset = write(tmp_path / "d", [rows, others])
    part = damage(dataset, 0, rows[1].codes_bytes)
    report = verify_dataset(dataset)
    [problem] = report.problems
    assert part in problem
    assert problem.endswith("damaged rows: 'changed'")
    undamaged = DatasetDigest(SETTINGS.fingerprints())
    undamaged.add(row.digest() for row in others)
    assert report.digest == undamaged.hexdigest()


def test_verify_names_the_part_whose_tokens_changed(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a"), broken(1, "b")]])
    part = damage(dataset, 0, np.array([300, 70000, 184621], "<u4").tobytes())
    [problem] = verify_dataset(dataset).problems
    assert part in problem
    assert "the damage is elsewhere" in problem


def test_verify_names_codes_outside_the_codebook(tmp_path: Path) -> None:
    rows = [sequence(0, "a", codes_THW=np.array([[[511, 512]]], np.uint16))]
    [problem] = verify_dataset(write(tmp_path / "d", [rows])).problems
    assert "code 512 is outside the codebook" in problem
    rows = [sequence(0, "a", codes_THW=np.array([[[0, 511]]], np.uint16))]
    assert verify_dataset(write(tmp_path / "e", [rows])).problems == []


def test_verify_counts_the_planned_inputs(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[sequence(0, "a"), sequence(1, "b")], [sequence(2, "c")]])
    dataset.record_path(0).unlink()
    for path in dataset.parts.glob("part-000000.*"):
        path.unlink()
    report = verify_dataset(dataset)
    assert not report.is_complete
    plan = dataset.plan()
    dataset.commit(UnitResult(0, [sequence(0, "a")], numerics=handmade.NUMERICS), plan)
    dataset.write_manifest(plan)
    [problem] = verify_dataset(dataset).problems
    assert "1 rows and 0 quarantined do not add up" in problem


def test_keys_stand_in_the_order_of_units_and_rows(tmp_path: Path) -> None:
    units = [[sequence(5, "z"), sequence(6, "b")], [sequence(1, "a")], [sequence(0, "c"), broken(3, "0")]]
    index = KeyReader(write(tmp_path / "d", units, refused=1))
    assert list(index) == ["z", "b", "a", "c", "0"]
    assert len(index) == 5
    for row in (row for rows in units for row in rows):
        assert described(index.row(row.key)) == described(row)
    np.testing.assert_array_equal(index.image("b"), units[0][1].codes_THW[0])


def test_a_key_finds_its_row_among_many_batches_and_units(tmp_path: Path) -> None:
    units = [[handmade.record(0, f"u{unit}-{row}") for row in range(300)] for unit in range(2)]
    units += [[handmade.record(0, f"v{unit}")] for unit in range(10)]
    for number, row in enumerate(row for rows in units for row in rows):
        row.codes_THW[0, 0, 0] = number
    index = KeyReader(write(tmp_path / "d", units, format="emu3.codes/1"))
    keys = [row.key for rows in units for row in rows]
    assert list(index) == keys
    for key in [*keys[::7], keys[0]]:
        assert index.row(key).key == key
        assert index.image(key)[0, 0] == keys.index(key)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    rows = [sequence(0, "picture"), sequence(1, "clip", kind="video"), broken(2, "broken")]
    index = KeyReader(write(tmp_path / "d", [rows]))
    assert index.image("picture").shape == (2, 3)
    for key in ("clip", "broken", "unknown"):
        with pytest.raises(RefusedInput, match=repr(key)) as refused:
            index.image(key)
        assert refused.value.reason == "missing_image"
    assert index.row("clip").kind == "video"
    with pytest.raises(RefusedInput, match="'unknown'"):
        index.row("unknown")


def test_clips_are_videos_or_images_of_one_frame(tmp_path: Path) -> None:
    frames = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    rows = [sequence(0, "picture"), sequence(1, "clip", kind="video", codes_THW=frames, fps=8.0), broken(2, "broken")]
    index = KeyReader(write(tmp_path / "d", [rows[:2], rows[2:]]))
    assert [index.is_video(key) for key in ("picture", "clip", "broken", "unknown")] == [False, True, False, False]
    np.testing.assert_array_equal(index.clip("clip").codes_THW, frames)
    assert index.clip("clip").fps == 8
    np.testing.assert_array_equal(index.clip("picture").codes_THW[0], index.image("picture"))
    for key in ("broken", "unknown"):
        with pytest.raises(RefusedInput, match=repr(key)) as refused:
            index.clip(key)
        assert refused.value.reason == "missing_image"


def test_a_damaged_or_missing_part_is_named(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), sequence(1, "b"), sequence(2, "c")]
    dataset = write(tmp_path / "d", [rows[:2], rows[2:]])
    part = damage(dataset, 0, rows[1].codes_bytes)
    with pytest.raises(DatasetError, match=rf"{part}.*damaged rows: 'b'"):
        KeyReader(dataset)
    (dataset.parts / part).unlink()
    with pytest.raises(DatasetError, match=part):
        KeyReader(dataset)
