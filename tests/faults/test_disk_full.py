"""A disk that is really full: a small file system in memory, enlarged after the job has failed."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.dataset.dataset import Dataset
from shared.maintenance.verify import verify_dataset
from tests.support.command import (
    ENCODE,
    SMALL_UNITS,
    assert_rows_once,
    finish,
    leftovers,
    start_module,
    verified_digest,
)
from tests.support.pictures import PICTURES

SMALL_KIB, LARGE_KIB = 72, 4096  # room for the plan and about five of sixteen units; far more than needed


def mount(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = mount("-t", "tmpfs", "-o", f"size={SMALL_KIB}k", "tmpfs", disk)
    if mounted.returncode:
        pytest.skip(f"mounting a file system in memory is not permitted here: {mounted.stderr.strip()}")
    yield disk
    gc.collect()  # files of the dataset are mapped as long as its objects live
    subprocess.run(["umount", str(disk)], check=True)


def encode(pictures: Path, dataset: Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `emu3 encode` without a model."""
    done = finish(start_module("tests.support.stand_in", "encode", pictures, dataset, *ENCODE, *SMALL_UNITS))
    assert done.returncode == exit_code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def test_disk_full_and_then_larger(small_disk: Path, pictures: Path, tmp_path: Path) -> None:
    dataset = small_disk / "dataset"
    failed = encode(pictures, dataset, exit_code=1)
    assert "No space left" in failed.stderr
    assert "run the same command again" in failed.stderr
    report = verify_dataset(Dataset.open(dataset))
    assert 0 < report.units < report.planned_units
    assert [problem for problem in report.problems if "belongs to none" not in problem] == []
    assert not list(dataset.rglob("*.tmp"))

    assert mount("-o", f"remount,size={LARGE_KIB}k", small_disk).returncode == 0
    encode(pictures, dataset)
    encode(pictures, tmp_path / "unbroken")
    assert verified_digest(dataset) == verified_digest(tmp_path / "unbroken")
    assert_rows_once(dataset, PICTURES)
    assert leftovers(dataset) == []
