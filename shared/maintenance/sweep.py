"""Removes what killed jobs leave behind in a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.dataset.paths import unit_and_suffix
from shared.errors import DatasetError
from shared.storage.atomic import remove_file
from shared.storage.checked_json import read_checked_json
from shared.storage.paths import is_local


def sweep(dataset: Dataset) -> None:
    """Remove temporary files, claims, partial rows of committed units, and files of units without a commit record.

    A part that the manifest lists is kept: its record was lost, for example in an interrupted copy.
    Call this only while no other job works on the dataset. Remote datasets are left alone: object stores have no
    temporary files, and no lock that would tell whether another job is running.
    """
    if not is_local(dataset.root):
        return
    written = (dataset.root, dataset.parts, dataset.quarantine, dataset.partial, dataset.shards, dataset.index)
    for directory in (*written, dataset.damaged, dataset.text_updates):
        _remove(directory.glob("*.tmp") if directory.is_dir() else ())
    uncommitted = [*dataset.parts.glob("part-*.arrow"), *dataset.quarantine.glob("part-*.jsonl")]
    abandoned = [path for path in uncommitted if _is_committed(dataset, path) is False]
    listed = _listed_parts(dataset) if abandoned else set()
    _remove(path for path in abandoned if path.name not in listed)
    _remove(path for path in dataset.partial.glob("part-*") if _is_committed(dataset, path))
    _remove(dataset.claims.glob("part-*"))
    _remove(path for path in dataset.text_updates.glob("texts-*.arrow") if _is_unused(path))
    for directory in (dataset.claims, dataset.partial):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _is_committed(dataset: Dataset, path: Path) -> bool | None:
    """Whether the unit that a file is named after is committed, None if it is named after none."""
    named = unit_and_suffix(path.name)
    return dataset.is_committed(named[0]) if named else None


def _listed_parts(dataset: Dataset) -> set[str]:
    try:
        return {part.part for part in dataset.manifest().parts}
    except DatasetError:
        return set()


def _is_unused(path: Path) -> bool:
    """Whether a killed job left a file of texts. A file whose record is damaged or lost is kept for its restoration."""
    record = path.with_name(f"{path.name.partition('.')[0]}.json")
    if not record.is_file():
        return not any(later.name > record.name for later in path.parent.glob("texts-*.json"))
    try:
        return read_checked_json(record).get("texts") != path.name
    except DatasetError:
        return False


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        remove_file(path)
