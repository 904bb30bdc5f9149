"""Rows by number and by key: of parts, of shards, and of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shared.dataset import dataset as dataset_module
from shared.dataset.arrow_file import ArrowFile, open_rows
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.dataset.shards import IndexFile
from shared.errors import DatasetError, RefusedInput
from shared.maintenance.options import SealOptions
from shared.maintenance.seal import seal
from shared.storage.atomic import write_file
from shared.storage.paths import as_path, sha256_of
from tests.support import handmade
from tests.support.sealed import (
    ONE_SHARD,
    ONE_SHARD_PER_UNIT,
    ROWS,
    UNITS,
    add_units,
    codes_offset,
    five_units,
    flip,
    rows_of,
    unit_keys,
)
from tests.support.sequences import broken, damage, described, sequence, write


def test_keys_stand_in_the_order_of_units_and_rows(tmp_path: Path) -> None:
    units = [[sequence(5, "z"), sequence(6, "b")], [sequence(1, "a")], [sequence(0, "c"), broken(3, "0")]]
    reader = KeyReader(write(tmp_path / "d", units, refused=1))
    assert list(reader) == ["z", "b", "a", "c", "0"]
    assert len(list(reader)) == 5
    for row in (row for rows in units for row in rows):
        assert described(reader.row(row.key)) == described(row)
    np.testing.assert_array_equal(reader.image("b"), units[0][1].codes_THW[0])


def test_a_key_finds_its_row_among_many_batches_and_units(tmp_path: Path) -> None:
    units = [[handmade.record(0, f"u{unit}-{row}") for row in range(300)] for unit in range(2)]
    units += [[handmade.record(0, f"v{unit}")] for unit in range(10)]
    for number, row in enumerate(row for rows in units for row in rows):
        row.codes_THW[0, 0, 0] = number
    reader = KeyReader(write(tmp_path / "d", units, format="emu3.codes/1"))
    keys = [row.key for rows in units for row in rows]
    assert list(reader) == keys
    for key in [*keys[::7], keys[0]]:
        assert reader.row(key).key == key
        assert reader.image(key)[0, 0] == keys.index(key)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    rows = [sequence(0, "picture"), sequence(1, "clip", kind="video"), broken(2, "broken")]
    reader = KeyReader(write(tmp_path / "d", [rows]))
    assert reader.image("picture").shape == (2, 3)
    for key in ("clip", "broken", "unknown"):
        with pytest.raises(RefusedInput, match=repr(key)) as refused:
            reader.image(key)
        assert refused.value.reason == "missing_image"
    assert reader.row("clip").kind == "video"
    with pytest.raises(RefusedInput, match="'unknown'"):
        reader.row("unknown")


def test_clips_are_videos_or_images_of_one_frame(tmp_path: Path) -> None:
    frames = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)
    rows = [sequence(0, "picture"), sequence(1, "clip", kind="video", codes_THW=frames, fps=8.0), broken(2, "broken")]
    reader = KeyReader(write(tmp_path / "d", [rows[:2], rows[2:]]))
    assert [reader.is_video(key) for key in ("picture", "clip", "broken", "unknown")] == [False, True, False, False]
    np.testing.assert_array_equal(reader.clip("clip").codes_THW, frames)
    assert reader.clip("clip").fps == 8
    np.testing.assert_array_equal(reader.clip("picture").codes_THW[0], reader.image("picture"))
    for key in ("broken", "unknown"):
        with pytest.raises(RefusedInput, match=repr(key)) as refused:
            reader.clip(key)
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


@pytest.mark.parametrize("grown", [0, 2])
def test_sealed_rows_are_found_in_the_index_and_others_beside_it(tmp_path: Path, grown: int) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    if grown:
        add_units(dataset, grown)
    reader = KeyReader(Dataset(dataset.root))
    assert len(list(reader)) == (UNITS + grown) * ROWS
    assert list(reader) == [key for unit in range(UNITS + grown) for key in unit_keys(unit)]
    for unit in range(UNITS + grown):
        for row in rows_of(unit):
            assert reader.row(row.key).digest() == row.digest()
            assert not reader.is_video(row.key)
    with pytest.raises(RefusedInput, match="'nobody'"):
        reader.row("nobody")


def test_a_damaged_shard_is_named_when_a_row_of_it_is_read(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    (damaged,) = dataset.shards.glob("codes-00001.*")
    flip(damaged, codes_offset(damaged, ROWS))
    reader = KeyReader(Dataset(dataset.root))
    assert reader.row(unit_keys(0)[0]).digest() == rows_of(0)[0].digest()
    with pytest.raises(DatasetError, match=damaged.name):
        reader.row(unit_keys(1)[1])


def test_an_index_that_leads_to_another_row_is_an_error(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    (path,) = dataset.index.iterdir()
    index = pa.ipc.open_file(path.read_bytes()).read_all()
    units = pa.chunked_array([(index.column("unit").to_numpy() + 1) % UNITS])
    moved = index.set_column(index.schema.get_field_index("unit"), index.schema.field("unit"), units)
    with pa.ipc.new_file(str(path), index.schema) as writer:
        writer.write_table(moved)
    manifest = dataset.manifest()
    listed = IndexFile(path.name, sha256_of(path), path.stat().st_size)
    write_file(dataset.manifest_path, replace(manifest, index=listed).to_bytes())
    reader = KeyReader(Dataset(dataset.root))
    with pytest.raises(DatasetError, match="the index is damaged"):
        reader.row(unit_keys(0)[0])


def assert_reads(reader: KeyReader, units: int) -> None:
    """Assert that a reader finds the rows of `five_units`, and of units that were added."""
    assert list(reader) == [key for unit in range(units) for key in unit_keys(unit)]
    for row in (row for unit in range(units) for row in rows_of(unit)):
        assert reader.row(row.key).digest() == row.digest()


def test_rows_are_read_on_while_the_dataset_is_sealed_and_sealed_again(remote_root: str, tmp_path: Path) -> None:
    for root in (tmp_path, as_path(remote_root)):
        dataset = five_units(root)
        reader = KeyReader(dataset)
        seal(SealOptions(str(root)))
        assert_reads(reader, UNITS)
        add_units(dataset, 2)
        reader, unread = KeyReader(Dataset(root)), Dataset(root)
        assert unread.shard_reader.index
        seal(SealOptions(str(root)))  # replaces the shard and the index
        assert_reads(reader, UNITS + 2)
        assert_reads(KeyReader(unread), UNITS + 2)


def test_a_part_that_goes_while_it_is_opened_is_read_from_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = five_units(tmp_path)

    def seal_and_open(path: Path) -> ArrowFile:
        monkeypatch.setattr(dataset_module, "open_rows", open_rows)
        seal(SealOptions(str(tmp_path)))
        return open_rows(path)

    monkeypatch.setattr(dataset_module, "open_rows", seal_and_open)
    assert [row.key for row in dataset.rows(dataset.record(0))] == unit_keys(0)


def test_a_shard_that_is_lost_is_named_and_not_looked_for_again(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    seal(SealOptions(str(tmp_path), ONE_SHARD))
    (path,) = dataset.shards.iterdir()
    path.unlink()
    opened = Dataset(tmp_path)
    with pytest.raises(DatasetError, match=path.name):
        next(opened.batches(opened.record(0)))
    with pytest.raises(DatasetError, match=f"{path.name}: missing"):
        KeyReader(opened).row(unit_keys(0)[0])
