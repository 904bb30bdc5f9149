"""Commits that race in an object store; `tests/faults/test_commit_faults.py` has those that fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.dataset.commit import UnitResult
from shared.errors import NondeterminismError
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
