"""A sweep removes what killed jobs leave behind, and keeps the rest."""

from __future__ import annotations

from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.maintenance.salvage import repaired_units, set_damaged_aside
from shared.maintenance.sweep import sweep
from tests.support import handmade
from tests.support.sealed import codes_offset, commit, five_units, flip


def touch(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")


def test_leftovers_go_and_committed_work_stays(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    before = sorted(dataset.root.rglob("*"))
    for path in (
        dataset.root / "plan.arrow.1-ab.tmp",
        dataset.parts / "part-000000.json.1-ab.tmp",
        dataset.parts / "part-000009.0123456789ab.arrow",
        dataset.quarantine / "part-000009.0123456789ab.jsonl",
        dataset.claim_path(0),
        dataset.partial_path(0),
        dataset.journal_path(1),
        dataset.partial / "part-000009.arrow.1-ab.tmp",
    ):
        touch(path)
    sweep(dataset)
    assert sorted(dataset.root.rglob("*")) == before


def test_a_part_whose_record_was_lost_stays_if_the_manifest_lists_it(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    part = dataset.parts / dataset.record(0).part
    dataset.record_path(0).unlink()
    sweep(dataset)
    assert part.is_file()
    dataset.manifest_path.unlink()
    sweep(dataset)
    assert not part.is_file()


def test_a_half_written_record_of_a_damaged_unit_is_removed(tmp_path: Path) -> None:
    """The next repair would take it for the record of the unit."""
    dataset = Dataset(tmp_path)
    touch(dataset.damaged / "part-000001.json.1-ab.tmp")
    sweep(dataset)
    assert not list(dataset.damaged.iterdir())


def test_a_killed_repair_is_repaired_by_the_next(tmp_path: Path) -> None:
    dataset = five_units(tmp_path)
    part = dataset.parts / dataset.record(1).part
    flip(part, codes_offset(part, 4))
    set_damaged_aside(dataset, dataset.plan())
    touch(dataset.damaged / "part-000002.json.1-0123abcd.tmp")
    touch(dataset.damaged / "part-000003.json")
    assert list(repaired_units(dataset)) == [(3, False)], "a record that cannot be read is not what it was"
    commit(dataset, [1])
    assert list(repaired_units(dataset)) == [(1, True)]
    sweep(dataset)
    assert not list(dataset.damaged.iterdir())


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    touch(dataset.parts / "part-notes.arrow")
    touch(dataset.quarantine / "part-of-mine.jsonl")
    for folder in ("x.tmp", "parts/x.tmp", "parts/part-000009.arrow", "claims/part-000000"):
        (dataset.root / folder).mkdir(parents=True)
    before = sorted(dataset.root.rglob("*"))
    sweep(dataset)
    assert sorted(dataset.root.rglob("*")) == before


def test_rows_of_unfinished_units_stay(tmp_path: Path) -> None:
    dataset, _ = handmade.freeze(tmp_path / "d", ["one"])
    touch(dataset.partial_path(0))
    touch(dataset.journal_path(0))
    sweep(dataset)
    assert dataset.partial_path(0).is_file()
    assert dataset.journal_path(0).is_file()


def test_remote_datasets_are_left_alone() -> None:
    dataset = Dataset("memory://sweep")
    dataset.claim_path(0).write_bytes(b"x")
    sweep(dataset)
    assert dataset.claim_path(0).is_file()
