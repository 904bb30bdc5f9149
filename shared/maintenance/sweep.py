"""Removes what killed jobs leave behind in a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.storage.paths import is_local


def sweep(dataset: Dataset) -> None:
    """Remove temporary files, claims, partial rows of committed units, and files that no commit record names.

    Call this only while no other job works on the dataset. Remote datasets are left alone: object stores have no
    temporary files, and no lock that would tell whether another job is running.
    """
    if not is_local(dataset.root):
        return
    for directory in (dataset.root, dataset.parts, dataset.quarantine, dataset.partial, dataset.damaged):
        _remove(directory.glob("*.tmp") if directory.is_dir() else ())
    written = [*dataset.parts.glob("part-*.arrow"), *dataset.quarantine.glob("part-*.jsonl")]
    _remove(path for path in written if not dataset.is_committed(_unit_of(path)))
    _remove(path for path in dataset.partial.glob("part-*") if dataset.is_committed(_unit_of(path)))
    _remove(dataset.claims.glob("part-*"))
    for directory in (dataset.claims, dataset.partial):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _unit_of(path: Path) -> int:
    """Return the unit number in the name of a file."""
    return int(path.name.split(".")[0].removeprefix("part-"))


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
