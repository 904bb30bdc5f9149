"""Commits that race in an object store; `tests/faults/test_commit_faults.py` has those that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.dataset import commit
from shared.dataset.commit import UnitResult
from shared.errors import DatasetError, NondeterminismError
from shared.storage.paths import names_in
from tests.support import handmade
from tests.support.handmade import NUMERICS, record


def test_a_second_commit_of_other_bytes_is_reported(remote_root: str) -> None:
    dataset = handmade.make(remote_root)
    before = names_in(dataset.parts)
    with pytest.raises(NondeterminismError, match="the first is kept"):
        dataset.commit(UnitResult(0, [record(7, "three")], numerics=NUMERICS), dataset.plan())
    assert sorted(names_in(dataset.parts)) == sorted(before)


def test_a_second_commit_of_equal_bytes_is_none(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    again = UnitResult(0, list(dataset.rows(dataset.record(0))), numerics=NUMERICS)
    assert dataset.commit(again, dataset.plan()) == dataset.record(0)
    assert dataset.commit(again, dataset.plan()).codes == 3 * 2 * 3


def test_nothing_is_committed_once_another_plan_has_replaced_the_one_that_was_read(tmp_path: Path) -> None:
    """A worker that outlived its command must not add units to the dataset that has taken the place of its own."""
    dataset, other = handmade.make(tmp_path / "d"), handmade.make(tmp_path / "other", ["four"])
    plan, result = dataset.plan(), UnitResult(0, list(dataset.rows(dataset.record(0))), numerics=NUMERICS)
    dataset.record_path(0).unlink()
    before = names_in(dataset.parts)
    for replace in (lambda: other.plan_path.rename(dataset.plan_path), dataset.plan_path.unlink):
        replace()
        with pytest.raises(DatasetError, match="replaced while this job was running"):
            dataset.commit(result, plan)
        assert names_in(dataset.parts) == before


def test_a_plan_that_is_replaced_while_a_unit_is_written_gets_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = handmade.make(tmp_path / "d")
    plan, result = dataset.plan(), UnitResult(0, list(dataset.rows(dataset.record(0))), numerics=NUMERICS)
    dataset.record_path(0).unlink()
    write_part = commit._write_part

    def write_and_be_replaced(*arguments: Any) -> tuple[str, str, int]:
        dataset.plan_path.unlink()
        return write_part(*arguments)

    monkeypatch.setattr(commit, "_write_part", write_and_be_replaced)
    with pytest.raises(DatasetError, match="replaced while this job was running"):
        dataset.commit(result, plan)
    assert not dataset.is_committed(0)
