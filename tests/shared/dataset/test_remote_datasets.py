"""Datasets by URL: the commit protocol, verify and seal in an object store (a real S3 server on this machine)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial, save_partial
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import RowReader
from shared.errors import NondeterminismError
from shared.maintenance.seal import SealOptions, seal
from shared.maintenance.verify import verify_dataset
from shared.storage.atomic import create_file
from shared.storage.paths import as_path, is_local, local_directory, names_in
from tests.support.handmade import NUMERICS, record, settings

KEYS = ("one", "two", "three")


@pytest.fixture(scope="module")
def bucket(s3: Callable[[str], str]) -> str:
    return s3("datasets")


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest) -> str:
    base = "memory://bucket" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{base}/{request.node.name.replace('[', '-').replace(']', '')}"


def make(root: str | Path) -> Dataset:
    inputs = tuple(PlannedInput(index, key, f"{index}.png") for index, key in enumerate(KEYS))
    dataset = Dataset(root)
    freeze_plan(dataset.plan_path, [Unit(0, 16, 24, inputs[:2]), Unit(1, 16, 24, inputs[2:])], settings(), len(KEYS))
    plan = dataset.plan()
    for unit, rows in ((0, (0, 1)), (1, (2,))):
        dataset.commit(UnitResult(unit, [record(row, KEYS[row]) for row in rows], numerics=NUMERICS), plan)
    dataset.write_manifest(plan)
    return dataset


def digest(dataset: Dataset) -> str:
    report = verify_dataset(Dataset(str(dataset.root)))
    assert report.problems == []
    assert report.is_complete
    return report.digest


def test_a_remote_dataset_has_the_digest_of_a_local_one(root: str, tmp_path: Path) -> None:
    dataset = make(root)
    assert not is_local(dataset.root)
    assert digest(dataset) == digest(make(tmp_path))
    assert RowReader(dataset).codes_THW(2).tolist() == record(2, "three").codes_THW.tolist()


def test_a_record_is_created_once(root: str) -> None:
    path = as_path(f"{root}/record.json")
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"


def test_one_of_many_writers_creates_the_record(bucket: str) -> None:
    path, won = as_path(f"{bucket}/contended.json"), []

    def write(number: int) -> None:
        if create_file(path, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert path.read_bytes() == str(won[0]).encode()


def test_a_second_commit_of_other_bytes_is_reported(root: str) -> None:
    dataset = make(root)
    before = names_in(dataset.parts)
    with pytest.raises(NondeterminismError, match="the first is kept"):
        dataset.commit(UnitResult(1, [record(7, "three")], numerics=NUMERICS), dataset.plan())
    assert sorted(names_in(dataset.parts)) == sorted(before)


def test_rows_of_an_interrupted_unit_are_kept(root: str) -> None:
    dataset = make(root)
    rows = [record(0, "one")]
    save_partial(dataset, dataset.plan(), UnitResult(0, rows, numerics=NUMERICS))
    restored = load_partial(dataset, dataset.plan(), 0, NUMERICS)
    assert [row.digest() for row in restored.records] == [row.digest() for row in rows]


def test_sealing_a_remote_dataset(root: str) -> None:
    dataset = make(root)
    before = digest(dataset)
    assert seal(SealOptions(root)).rows == len(KEYS)
    assert digest(dataset) == before
    assert not [name for name in names_in(dataset.parts) if name.endswith(".arrow")]


def test_a_remote_checkpoint_is_copied_once_a_version(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMU3_CACHE", str(tmp_path))
    remote = as_path(f"{root}/model")
    (remote / "config.json").write_bytes(b"{}")
    (remote / "folder" / "weights").write_bytes(b"12345")
    copy = local_directory(f"{root}/model")
    assert (copy / "folder" / "weights").read_bytes() == b"12345"
    assert local_directory(f"{root}/model") == copy
    (remote / "config.json").write_bytes(b"[1]")
    assert (local_directory(f"{root}/model") / "config.json").read_bytes() == b"[1]"
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2
