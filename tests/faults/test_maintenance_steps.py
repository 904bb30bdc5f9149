"""seal, repair and export are disturbed at every single change to the disk, and then run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shared.dataset.dataset import Dataset
from shared.maintenance.seal import SealOptions, seal
from tests.support import handmade
from tests.support.disturbed_runs import problems, steps
from tests.support.sealed import (
    ONE_SHARD,
    ONE_SHARD_PER_UNIT,
    add_units,
    codes_offset,
    five_units,
    flip,
)

DISTURBANCES = [pytest.param("kill", {-9}, id="SIGKILL"), pytest.param("fail", {1, 0}, id="ENOSPC")]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "d").mkdir()
    return five_units(tmp_path / "d")


@pytest.mark.parametrize(("disturbance", "allowed"), DISTURBANCES)
def test_seal_disturbed_at_every_step(disturbance: str, allowed: set[int], dataset: Dataset, tmp_path: Path) -> None:
    lines = steps(disturbance, tmp_path / "work", dataset.root, "seal", "{}")
    names = list(lines[-1]["after"])
    assert ["shards/codes-00000." in name for name in names].count(True) == 1
    assert not any(name.startswith("parts/") and name.endswith(".arrow") for name in names)
    assert problems(lines, allowed) == []


@pytest.mark.parametrize(("disturbance", "allowed"), DISTURBANCES)
def test_seal_of_a_grown_dataset_disturbed_at_every_step(
    disturbance: str, allowed: set[int], dataset: Dataset, tmp_path: Path
) -> None:
    """The last shard is merged with what was added, and its file is replaced."""
    seal(SealOptions(str(dataset.root), ONE_SHARD))
    add_units(Dataset(dataset.root), 2)
    lines = steps(disturbance, tmp_path / "work", dataset.root, "seal", "{}")
    assert problems(lines, allowed) == []


@pytest.mark.parametrize(("disturbance", "allowed"), DISTURBANCES)
def test_repair_disturbed_at_every_step(disturbance: str, allowed: set[int], dataset: Dataset, tmp_path: Path) -> None:
    """A lost manifest, a shard with a damaged row, and a copied commit record."""
    seal(SealOptions(str(dataset.root), ONE_SHARD_PER_UNIT))
    dataset.manifest_path.unlink()
    shard = next(dataset.shards.glob("codes-00001.*"))
    flip(shard, codes_offset(shard, 4))
    shutil.copy(dataset.record_path(0), dataset.record_path(3))
    lines = steps(disturbance, tmp_path / "work", dataset.root, "repair", "{}")
    assert "damaged/part-000001.json" in lines[-1]["after"]
    assert "partial/part-000001.arrow" in lines[-1]["after"]
    assert problems(lines, allowed) == []


@pytest.mark.parametrize("how", ["webdataset", "parquet", "pth"])
def test_export_killed_at_every_step(how: str, tmp_path: Path) -> None:
    root = handmade.make(tmp_path / "d").root
    lines = steps("kill", tmp_path / "work", None, "export", root, "{}", "--format", how)
    assert not any(name.endswith(".tmp") for name in lines[-1]["after"])
    for files in (files for line in lines for files in (line["between"], line["after"])):
        files.pop("list/train.json", None)  # it names the folder, which is another one in each run
    assert problems(lines, {-9}) == []
