"""Sealed datasets whose shards, index or manifest are damaged or lost: no row is lost or silently replaced."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader, RowReader
from shared.errors import DatasetError, RelayError
from shared.exchange.export import export
from shared.exchange.options import ExportOptions
from shared.maintenance import seal as seal_module
from shared.maintenance.options import SealOptions
from shared.maintenance.salvage import set_damaged_aside
from shared.maintenance.seal import seal
from shared.maintenance.summary import summarize
from shared.maintenance.verify import verify_dataset
from tests.support import handmade
from tests.support.command import emu3, verified_digest
from tests.support.handmade import NUMERICS, record
from tests.support.sealed import (
    ONE_SHARD,
    ONE_SHARD_PER_UNIT,
    ROWS,
    UNITS,
    add_units,
    codes_offset,
    commit,
    digest,
    five_units,
    flip,
    rows_of,
    unit_keys,
)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    (tmp_path / "d").mkdir()
    return five_units(tmp_path / "d")


def sealed(dataset: Dataset, shard_bytes: int = ONE_SHARD_PER_UNIT, keep_parts: bool = False) -> str:
    """Seal a dataset; return its digest."""
    seal(SealOptions(str(dataset.root), shard_bytes, keep_parts))
    return digest(dataset)


def opened(dataset: Dataset) -> Dataset:
    return Dataset(dataset.root)


def repaired(dataset: Dataset) -> Dataset:
    reopened = opened(dataset)
    set_damaged_aside(reopened, reopened.plan())
    return reopened


READERS: dict[str, Callable[[Dataset], Any]] = {
    "check": lambda dataset: dataset.check(),
    "rows": lambda dataset: [row for record in dataset.commit_records() for row in dataset.rows(record)],
    "by number": lambda dataset: RowReader(dataset).column("key"),
    "by key": lambda dataset: KeyReader(dataset).row(unit_keys(3)[0]),
    "inspect": summarize,
    "write manifest": lambda dataset: dataset.write_manifest(dataset.plan()),
    "seal": lambda dataset: seal(SealOptions(str(dataset.root))),
    "export": lambda dataset: export(ExportOptions(str(dataset.root), f"{dataset.root}-export")),
}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Shards beside the parts that they were merged from


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_seal_writes_damaged_shards_again_while_the_parts_exist(dataset: Dataset, damage: str) -> None:
    before = sealed(dataset, keep_parts=True)
    for path in dataset.shards.iterdir():
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[:100])
        elif damage == "flipped":
            flip(path, len(content) // 2)
        else:
            path.unlink()
    report = verify_dataset(opened(dataset))
    assert len(report.problems) == UNITS
    assert all("shards/codes-" in problem for problem in report.problems)
    assert sealed(dataset) == before
    assert not list(dataset.parts.glob("*.arrow"))


@pytest.mark.parametrize("damaged", [False, True])
def test_seal_resumes_after_a_kill_before_the_parts_are_removed(
    dataset: Dataset, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(seal_module, "_remove_merged", lambda *arguments: None)
        seal(SealOptions(str(dataset.root)))
    assert len(list(dataset.parts.glob("*.arrow"))) == UNITS
    if damaged:
        (shard,) = dataset.shards.iterdir()
        shard.write_bytes(shard.read_bytes()[:-1])
    assert sealed(dataset) == before
    assert not list(dataset.parts.glob("*.arrow"))


def test_seal_keeps_the_parts_if_the_disk_returns_other_bytes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(dataset)
    write = seal_module.write_hashed_file

    def write_other_bytes(directory: Path, stem: str, data: bytes, suffix: str) -> tuple[str, str]:
        name, sha256 = write(directory, stem, data, suffix)
        flip(directory / name, len(data) // 2)
        return name, sha256

    monkeypatch.setattr(seal_module, "write_hashed_file", write_other_bytes)
    with pytest.raises(DatasetError, match="codes-00000"):
        seal(SealOptions(str(dataset.root)))
    assert digest(dataset) == before
    assert len(list(dataset.parts.glob("*.arrow"))) == UNITS


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_seal_refuses_damaged_shards_without_parts(dataset: Dataset, damage: str) -> None:
    sealed(dataset, ONE_SHARD)
    add_units(opened(dataset), 1)
    (shard,) = dataset.shards.iterdir()
    if damage == "deleted":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        flip(shard, codes_offset(shard, 4))
    before = files(dataset.root)
    with pytest.raises(DatasetError, match=shard.name):
        seal(SealOptions(str(dataset.root), ONE_SHARD))
    assert files(dataset.root) == before


def test_a_unit_committed_again_with_different_bytes_replaces_the_rows_in_its_shard(dataset: Dataset) -> None:
    sealed(dataset, ONE_SHARD)
    dataset.record_path(1).unlink()
    assert unit_keys(1)[0] not in list(KeyReader(opened(dataset))), "a unit that was set aside has no rows"
    others = [record(90 + row, key) for row, key in enumerate(unit_keys(1))]
    again = opened(dataset)
    again.commit(UnitResult(1, others, numerics=NUMERICS), again.plan())
    again.write_manifest(again.plan())
    assert KeyReader(opened(dataset)).row(unit_keys(1)[0]).src_index == 90
    before = digest(dataset)
    assert sealed(dataset, ONE_SHARD) == before
    assert KeyReader(opened(dataset)).row(unit_keys(1)[0]).src_index == 90
    assert not list(dataset.parts.glob("*.arrow"))


def test_a_unit_without_rows_is_not_sealed_again_and_again(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    assert seal(SealOptions(str(dataset.root))).written == 1
    assert seal(SealOptions(str(dataset.root))).written == 0


# The manifest


def lose(dataset: Dataset, what: str) -> None:
    if "manifest deleted" in what:
        dataset.manifest_path.unlink()
    if "manifest damaged" in what:
        flip(dataset.manifest_path, 300)
    if "manifest empty" in what:
        dataset.manifest_path.write_bytes(b"")
    if "index deleted" in what:
        shutil.rmtree(dataset.index)
    if "index damaged" in what:
        (index,) = dataset.index.iterdir()
        index.write_bytes(index.read_bytes()[:50])


LOSSES = ["manifest deleted", "manifest damaged", "manifest empty", "manifest deleted, index deleted",
          "manifest damaged, index damaged", "manifest damaged, index deleted"]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_without_its_manifest_a_sealed_dataset_is_refused_until_it_is_repaired(dataset: Dataset, loss: str) -> None:
    before = sealed(dataset)
    lose(dataset, loss)
    lost = files(dataset.root)
    for name, read in READERS.items():
        with pytest.raises(DatasetError, match=r"manifest\.json.*run `emu3 repair`"):
            read(opened(dataset))
        assert files(dataset.root) == lost, name
    report = verify_dataset(opened(dataset))
    assert "manifest.json" in report.problems[0]
    assert report.digest == before, "the rows are found without the manifest"
    repaired(dataset)
    assert digest(dataset) == before
    assert sealed(dataset) == before
    for unit in range(UNITS):
        for row in rows_of(unit):
            assert KeyReader(opened(dataset)).row(row.key).digest() == row.digest()


def test_a_damaged_shard_without_manifest_loses_only_its_damaged_row(dataset: Dataset) -> None:
    before = sealed(dataset, ONE_SHARD)
    lose(dataset, "manifest deleted, index deleted")
    (shard,) = dataset.shards.iterdir()
    flip(shard, codes_offset(shard, 4))
    reopened = opened(dataset)
    (found,) = set_damaged_aside(reopened, reopened.plan())
    assert (found.unit, found.kept, found.rows) == (1, 2, ROWS)
    commit(reopened, [1])
    assert digest(dataset) == before
    assert sealed(dataset) == before


def test_a_killed_first_seal_without_manifest_is_no_damage(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "write_manifest", lambda *arguments: None)
        patch.setattr(seal_module, "_remove_merged", lambda *arguments: None)
        seal(SealOptions(str(dataset.root)))
    dataset.manifest_path.unlink()
    assert digest(dataset) == before
    assert sealed(dataset) == before


def test_the_commands_refuse_and_repair(dataset: Dataset) -> None:
    before = sealed(dataset)
    lose(dataset, "manifest deleted")
    for command in (("seal", dataset.root), ("export", dataset.root, f"{dataset.root}-export")):
        assert "run `emu3 repair`" in emu3(*command, exit_code=1).stderr
    verified = emu3("verify", dataset.root, exit_code=1)
    assert verified.stdout.strip() == before
    assert "manifest.json: missing" in emu3("repair", dataset.root).stderr
    assert "nothing is damaged" in emu3("repair", dataset.root).stderr
    assert verified_digest(dataset.root) == before


# The index


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bit_of_an_index_returns_another_row(dataset: Dataset, seed: int) -> None:
    sealed(dataset)
    (index,) = dataset.index.iterdir()
    content, rng = index.read_bytes(), random.Random(seed)
    for _ in range(50):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        index.write_bytes(flipped)
        with pytest.raises(DatasetError, match=index.name):
            KeyReader(opened(dataset))
    index.write_bytes(content)
    assert len(list(KeyReader(opened(dataset)))) == UNITS * ROWS


@pytest.mark.parametrize("kind", ["plan", "part", "shard"])
def test_no_flipped_bit_of_an_arrow_file_crashes_a_reader(dataset: Dataset, kind: str) -> None:
    """Arrow trusts what it reads; every file is validated, or compared with its checksum, before it is used."""
    sealed(dataset, ONE_SHARD)
    if kind == "part":
        add_units(opened(dataset), 1)
    path = {
        "plan": dataset.plan_path,
        "part": next(dataset.parts.glob("*.arrow"), dataset.plan_path),
        "shard": next(dataset.shards.iterdir()),
    }[kind]
    content, rng = path.read_bytes(), random.Random(kind)
    for _ in range(60):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        for read in (lambda d: list(d.plan().keys()), READERS["by number"], READERS["inspect"], verify_dataset):
            try:
                read(opened(dataset))
            except RelayError:
                continue
