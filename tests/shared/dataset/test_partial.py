"""Rows of an interrupted unit."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.commit import UnitResult
from shared.dataset.partial import load_partial, save_partial
from tests.support import handmade
from tests.support.handmade import NUMERICS, record


def test_rows_are_kept_on_disk_and_in_a_bucket(remote_root: str, tmp_path: Path) -> None:
    for root in (remote_root, tmp_path / "local"):
        dataset, plan = handmade.freeze(root, ["one", "two"])
        saved = UnitResult(0, [record(0, "one")], numerics=NUMERICS, quality=[{"key": "one", "ssim": 1.0}])
        save_partial(dataset, plan, saved)
        restored = load_partial(dataset, plan, 0, NUMERICS)
        assert [row.digest() for row in restored.records] == [record(0, "one").digest()]
        assert restored.quality == saved.quality
        assert not load_partial(dataset, plan, 0, {"device": "Ascend"}).records, "of other numerics"
        assert not load_partial(dataset, plan, 1, NUMERICS).records, "nothing was kept"


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "d", ["one"])
    save_partial(dataset, plan, UnitResult(0, [record(0, "one")], numerics=NUMERICS))
    content = dataset.partial_path(0).read_bytes()
    for offset in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        dataset.partial_path(0).write_bytes(damaged)
        assert not load_partial(dataset, plan, 0, NUMERICS).records
    dataset.partial_path(0).write_bytes(content[:-1])
    assert not load_partial(dataset, plan, 0, NUMERICS).records


def test_rows_of_another_unit_count_as_none(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "d", ["one"])
    save_partial(dataset, plan, UnitResult(0, [record(0, "one")], numerics=NUMERICS))
    dataset.partial_path(0).rename(dataset.partial_path(1))
    assert not load_partial(dataset, plan, 1, NUMERICS).records
