"""Finds out which units the shards of a dataset hold, without the manifest that lists them.

The rows of a unit are recognized by their numbers in the plan, and proven by the commit record: written as a part,
they have the checksum of the part that was merged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from shared.dataset.arrow_file import ArrowFile, dump_batches, open_rows, row_schema
from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.rows import MAX_ROWS_PER_BATCH
from shared.dataset.shards import ManifestPart, Shard, ShardReader
from shared.errors import DatasetError
from shared.storage.paths import names_in, sha256_of

_SHARD_NAME = re.compile(r"codes-\d{5,}\.([0-9a-f]{12})\.arrow")


def recover_shards(dataset: Dataset, plan: Plan, records: Iterable[CommitRecord]) -> ShardReader:
    """Return a reader of the shards on disk.

    An undamaged shard lists the units whose rows are proven. A damaged one lists all units that are recognized, with a
    checksum that it does not match, so that its intact rows can still be saved.
    """
    by_unit = {record.unit: record for record in records if record.rows}
    paths = [dataset.shards / name for name in sorted(filter(_SHARD_NAME.fullmatch, names_in(dataset.shards)))]
    finder = _UnitFinder(plan, by_unit, paths)
    shards = _without_copies([_recover_shard(finder, path) for path in paths])
    parts = (ManifestPart(r.unit, r.part, r.rows, r.part_bytes, r.part_sha256) for r in by_unit.values())
    return ShardReader(dataset.shards, shards, parts)


def _without_copies(shards: Sequence[Shard]) -> list[Shard]:
    """List every unit once: a killed `emu3 seal` leaves a shard beside the larger one that replaces it."""
    seen: set[int] = set()
    kept = []
    for shard in sorted(shards, key=lambda shard: -len(shard.units)):
        units = tuple(location for location in shard.units if location[0] not in seen)
        seen.update(unit for unit, _, _ in units)
        kept += [replace(shard, units=units)] if units else []
    return sorted(kept, key=lambda shard: shard.shard)


def _recover_shard(finder: _UnitFinder, path: Path) -> Shard:
    sha256, digits = sha256_of(path), path.name.split(".")[1]
    is_damaged = sha256[:12] != digits
    try:
        file = open_rows(path, "run `emu3 repair`")
        found = [location for location in finder.locations(file) if location.is_proven or is_damaged]
    except DatasetError:
        found = []  # nothing of it can be read
    rows = sum(finder.records[location.unit].rows for location in found)
    units = tuple((location.unit, location.first, location.count) for location in found)
    return Shard(path.name, path.stat().st_size, digits if is_damaged else sha256, rows, units)


@dataclass(frozen=True, slots=True)
class _Location:
    """Record batches of a shard that belong to a unit; `is_proven` if they give its part again."""

    unit: int
    first: int
    count: int
    is_proven: bool


class _UnitFinder:
    """Recognizes units by the `src_index` of their rows: the first row of a batch tells which units it can be of."""

    def __init__(self, plan: Plan, records: Mapping[int, CommitRecord], shards: Iterable[Path]):
        self.records = records
        self._plan = plan
        self._schema = row_schema(plan.settings)
        self._units_of: dict[int, list[int]] = {row: [] for path in shards for row in _first_rows(path)}
        for unit in sorted(records):
            for src_index in self._units_of.keys() & plan.src_indices(unit):
                self._units_of[src_index].append(unit)

    def locations(self, file: ArrowFile) -> Iterator[_Location]:
        """Yield the units of a shard; batches that cannot be read or belong to no unit are left out."""
        first = 0
        while first < len(file):
            found = self._location(file, first)
            if found is not None:
                yield found
            first += found.count if found else 1

    def _location(self, file: ArrowFile, first: int) -> _Location | None:
        """Return the unit that begins at a batch; an input that was tried again is planned in several."""
        rows = _src_indices(file, first)
        units = self._units_of.get(rows[0], ()) if rows else ()
        found_rows = set(rows)
        fitting = [unit for unit in units if found_rows <= set(self._plan.src_indices(unit))]
        found = [location for unit in fitting if (location := self._check(file, first, unit))]
        return max(found, key=attrgetter("is_proven"), default=None)

    def _check(self, file: ArrowFile, first: int, unit: int) -> _Location | None:
        """Return the batches of a unit that begins at `first`, None if the file ends before."""
        record = self.records[unit]
        count = -(-record.rows // MAX_ROWS_PER_BATCH)
        if first + count > len(file):
            return None
        try:
            content = dump_batches((file.batch(index) for index in range(first, first + count)), self._schema)
        except DatasetError:
            return _Location(unit, first, count, False)
        return _Location(unit, first, count, hashlib.sha256(content).hexdigest() == record.part_sha256)


def _first_rows(shard: Path) -> list[int]:
    """Return the `src_index` of the first row of every batch that can be read."""
    try:
        file = open_rows(shard)
    except DatasetError:
        return []
    return [rows[0] for index in range(len(file)) if (rows := _src_indices(file, index, 1))]


def _src_indices(file: ArrowFile, index: int, count: int | None = None) -> list[int]:
    """Return the `src_index` of the first rows of a batch, or of all; nothing if it cannot be read."""
    try:
        return list(file.batch(index).column("src_index").slice(0, count).to_pylist())
    except DatasetError:
        return []
