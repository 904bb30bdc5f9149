"""Rows of committed units, local and remote."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.columns import columns_of
from shared.dataset.readers import RowReader
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.maintenance.verify import verify_dataset
from shared.storage.paths import is_local
from tests.support import handmade, small_datasets
from tests.support.handmade import record
from tests.support.sequences import broken, described, sequence, write


def test_rows_of_a_committed_part_are_those_given(tmp_path: Path) -> None:
    rows = [sequence(0, "a"), broken(1, "b"), sequence(2, "c", negative_prompt=None)]
    dataset = write(tmp_path / "d", [rows])
    record = dataset.record(0)
    assert [described(row) for row in dataset.rows(record)] == [described(row) for row in rows]
    assert (record.rows, record.captions, record.height, record.width) == (3, 3, 2, 3)
    assert dataset.manifest().settings.format == SEQUENCE_FORMAT
    batch = next(dataset.batches(record))
    assert batch.schema.equals(columns_of(SEQUENCE_FORMAT, "uint16"))


def test_a_part_may_begin_with_or_be_all_broken_sequences(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", [[broken(0, "a"), sequence(1, "b")], [broken(2, "c")]])
    assert [(record.height, record.width) for record in dataset.commit_records()] == [(2, 3), (0, 0)]
    assert [row.tokens for row in dataset.rows(dataset.record(1))] == [[300, 70000, 184621]]
    assert verify_dataset(dataset).problems == []


def test_a_remote_dataset_has_the_digest_of_a_local_one(remote_root: str, tmp_path: Path) -> None:
    dataset = handmade.make(remote_root)
    assert not is_local(dataset.root)
    assert small_datasets.digest(remote_root) == small_datasets.digest(handmade.make(tmp_path / "local").root)
    assert RowReader(dataset).codes_THW(2).tolist() == record(2, "three").codes_THW.tolist()
