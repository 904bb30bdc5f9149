"""Commit records that belong to another unit or another plan: every reader and every job refuses them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import addition_path
from shared.dataset.readers import KeyReader, RowReader
from shared.errors import DatasetError
from shared.exchange.export import export
from shared.exchange.options import ExportOptions
from shared.jobs.units import PlanUnits
from shared.maintenance.options import SealOptions
from shared.maintenance.salvage import set_damaged_aside
from shared.maintenance.seal import seal
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from shared.storage.checked_json import dump_checked_json, read_checked_json
from tests.support import handmade
from tests.support.sealed import UNITS, add_units, commit, digest, five_units

JOBS: dict[str, Callable[[Dataset], Any]] = {
    "encode, generate, import": lambda dataset: PlanUnits.of(dataset, dataset.plan()),
    "decode": lambda dataset: [dataset.record(unit) for unit in range(UNITS)],
    "by number": RowReader,
    "by key": KeyReader,
    "inspect": summarize,
    "manifest": lambda dataset: dataset.write_manifest(dataset.plan()),
    "seal": lambda dataset: seal(SealOptions(str(dataset.root))),
    "export": lambda dataset: export(ExportOptions(str(dataset.root), f"{dataset.root}-export")),
}


def rewrite(dataset: Dataset, number: int, without: Sequence[str] = (), **changes: object) -> None:
    """Write a record with other values and a valid checksum."""
    path = dataset.record_path(number)
    values = {**read_checked_json(path), **changes}
    path.write_bytes(dump_checked_json({name: value for name, value in values.items() if name not in without}))


def copied(dataset: Dataset) -> None:
    shutil.copy(dataset.record_path(1), dataset.record_path(3))


def of_another_plan(dataset: Dataset) -> None:
    rewrite(dataset, 3, plan_sha256="0" * 64)


def of_a_unit_beyond_the_plan(dataset: Dataset) -> None:
    rewrite(dataset, 3, unit=7, part="part-000007.0123456789ab.arrow")
    dataset.record_path(3).rename(dataset.record_path(7))


def leading_out_of_the_folder(dataset: Dataset) -> None:
    rewrite(dataset, 3, part="../plan.arrow")


def of_wrong_types(dataset: Dataset) -> None:
    rewrite(dataset, 3, rows="3")


FOREIGN = [copied, of_another_plan, leading_out_of_the_folder, of_wrong_types]


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("make_foreign", FOREIGN)
def test_a_foreign_record_is_refused_and_repaired(
    tmp_path: Path, make_foreign: Callable[[Dataset], None], has_manifest: bool
) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    before = digest(dataset)
    make_foreign(dataset)
    if not has_manifest:
        dataset.manifest_path.unlink()
    for run in JOBS.values():
        with pytest.raises(DatasetError, match=r"part-000003\.json.*run `emu3 repair`"):
            run(Dataset(dataset.root))
    assert dataset.manifest_path.is_file() == has_manifest
    assert any("part-000003.json" in problem for problem in verify_dataset(Dataset(dataset.root)).problems)
    reopened = Dataset(dataset.root)
    (found,) = set_damaged_aside(reopened, reopened.plan())
    assert found.unit == 3
    assert reopened.missing_units(reopened.plan()) == [3]
    commit(reopened, [3])
    assert digest(reopened) == before


def test_a_record_of_no_planned_unit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    of_a_unit_beyond_the_plan(dataset)
    for name, run in JOBS.items():
        if name != "decode":
            with pytest.raises(DatasetError, match=r"part-000007\.json|units are missing"):
                run(Dataset(dataset.root))


@pytest.mark.parametrize("has_manifest", [True, False])
def test_if_no_record_belongs_to_the_plan_nothing_is_set_aside(tmp_path: Path, has_manifest: bool) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    for unit in range(UNITS):
        rewrite(dataset, unit, plan_sha256="0" * 64)
    if has_manifest:
        manifest = read_checked_json(dataset.manifest_path)
        dataset.manifest_path.write_bytes(dump_checked_json({**manifest, "plan_sha256": "0" * 64}))
    else:
        dataset.manifest_path.unlink()
    with pytest.raises(DatasetError, match=r"plan\.arrow: sha256 .* name 000000000000; restore it from a copy"):
        set_damaged_aside(Dataset(dataset.root), Dataset(dataset.root).plan())
    assert len(dataset.committed_units()) == UNITS
    (problem, *_) = verify_dataset(Dataset(dataset.root)).problems
    assert "plan.arrow" in problem


@pytest.mark.parametrize("is_sealed", [False, True])
def test_without_an_addition_to_the_plan_its_units_are_not_removed(tmp_path: Path, is_sealed: bool) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    add_units(dataset, 2)
    if is_sealed:
        seal(SealOptions(str(dataset.root)))
    before, addition = digest(dataset), addition_path(dataset.plan_path, 1)
    addition.rename(tmp_path / "kept")
    reopened = Dataset(dataset.root)
    with pytest.raises(DatasetError, match=r"plan-0001\.arrow: missing: the plan has 5 units, .*; restore it"):
        set_damaged_aside(reopened, reopened.plan())
    assert "plan-0001.arrow" in verify_dataset(Dataset(dataset.root)).problems[0]
    (tmp_path / "kept").rename(addition)
    assert digest(dataset) == before


@pytest.mark.parametrize("without", [(), ("unit", "plan_sha256")])
def test_a_record_of_no_planned_unit_is_removed(tmp_path: Path, without: Sequence[str]) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    before = digest(dataset)
    shutil.copy(dataset.record_path(3), dataset.record_path(7))
    rewrite(dataset, 7, unit=7, part="part-000007.0123456789ab.arrow", without=without)
    reopened = Dataset(dataset.root)
    assert any("part-000007.json" in problem for problem in verify_dataset(reopened).problems)
    (found,) = set_damaged_aside(reopened, reopened.plan())
    assert found.unit == 7
    assert digest(reopened) == before


def test_records_that_name_neither_stay_readable(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    before = digest(dataset)
    for unit in range(UNITS):
        rewrite(dataset, unit, without=("unit", "plan_sha256"))
    assert digest(dataset) == before
    for run in JOBS.values():
        run(Dataset(dataset.root))


def test_files_of_other_names_are_no_units(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    dataset = five_units(tmp_path / "d")
    for name in ("part-notes.json", "part-1.json", "part-٠٠٠٠٠١.json", "readme.json"):
        (dataset.parts / name).write_text("{}")
    assert Dataset(dataset.root).committed_units() == list(range(UNITS))


def test_a_worker_whose_plan_was_replaced_commits_nothing(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "d", ["one", "two"])
    dataset.root.rename(tmp_path / "stale")
    replaced, _ = handmade.freeze(tmp_path / "d", ["one", "other"])
    with pytest.raises(DatasetError, match=r"plan\.arrow: replaced while this job was running"):
        dataset.commit(UnitResult(0, [handmade.record(0, "one"), handmade.record(1, "two")]), plan)
    assert replaced.committed_units() == []
