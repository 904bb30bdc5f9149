"""What killed jobs leave in a dataset, and how it is cleared away."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shared.dataset.dataset import Dataset
from shared.storage.paths import is_local


def sweep(dataset: Dataset) -> None:
    """Removes temporary files, claims, rows of units that are whole by now, parts and quarantine without a record.

    Only to be called while no job runs on this dataset; object stores have no temporary files, and no way to
    know that.
    """
    if not is_local(dataset.root):
        return
    claims, partial = dataset.claim_path(0).parent, dataset.partial_path(0).parent
    for directory in (dataset.root, dataset.parts, dataset.quarantine):
        _remove(directory.glob("*.tmp") if directory.is_dir() else ())
    written = [*dataset.parts.glob("part-*.arrow"), *dataset.quarantine.glob("part-*.jsonl")]
    _remove(path for path in written if not dataset.is_committed(_unit(path)))
    _remove(claims.glob("part-*"))
    kept = list(partial.glob("part-*"))
    _remove(path for path in kept if path.name.endswith(".tmp") or dataset.is_committed(_unit(path)))
    for directory in (claims, partial):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _unit(path: Path) -> int:
    """The number in the name of a part, or of what goes with one."""
    return int(path.name.split(".")[0].removeprefix("part-"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
