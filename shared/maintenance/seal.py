"""Merges the parts of a complete dataset into shards, with an index by key. A killed run changes nothing.

The order is: shards, under names that carry their hashes; the index; the manifest, which makes them visible; then the
parts that are in shards, and shards that the manifest does not list, are removed. Before anything is removed, every
shard has been read back, and its rows have been compared with the parts that still exist. Units that were added since
the last run are merged with the last shard if that is small, or into new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from tqdm import tqdm

from shared.dataset.arrow_file import dump_batches, open_rows, row_schema
from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import KeyIndex, index_problem
from shared.dataset.settings import DatasetSettings
from shared.dataset.shards import IndexFile, Shard, ShardReader
from shared.errors import DatasetError
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.maintenance.options import SealOptions
from shared.maintenance.sweep import sweep
from shared.storage.atomic import remove_file, write_hashed_file
from shared.storage.paths import names_in


@dataclass(frozen=True, slots=True)
class SealResult:
    """The number of shards, how many of them this run wrote, and their rows and bytes."""

    shards: int
    written: int
    rows: int
    bytes: int


def seal(options: SealOptions) -> SealResult:
    """Seal a dataset. Raises DatasetError, and removes nothing, if units are missing or a part is damaged."""
    dataset = Dataset.open(options.dataset)
    with stop_on_signals() as stop, job_lock(dataset.root, partial(sweep, dataset)):
        plan = dataset.plan()
        records = {record.unit: record for record in dataset.complete_records(plan) if record.rows}
        kept, new_groups = _grouped_units(dataset, records, options.shard_bytes)
        first_number = 1 + max((shard.number for shard in kept), default=-1)
        shards = kept + _write_shards(dataset, plan.settings, first_number, new_groups, stop)
        index = _up_to_date_index(dataset, shards)
        dataset.write_manifest(plan, shards, index)
        _remove_merged(dataset, records, shards, index, options.keep_parts)
    return SealResult(len(shards), len(new_groups), sum(s.rows for s in shards), sum(s.bytes for s in shards))


def _grouped_units(
    dataset: Dataset, records: Mapping[int, CommitRecord], shard_bytes: int
) -> tuple[list[Shard], list[list[CommitRecord]]]:
    """Return the shards that stay, and the units of each new one."""
    kept = [shard for shard in dataset.shard_reader.shards if _is_up_to_date(dataset, records, shard)]
    sealed = {unit for shard in kept for unit, _, _ in shard.units}
    if kept and kept[-1].bytes < shard_bytes and records.keys() - sealed:
        sealed -= {unit for unit, _, _ in kept.pop().units}
    return kept, list(_groups([record for unit, record in records.items() if unit not in sealed], shard_bytes))


def _is_up_to_date(dataset: Dataset, records: Mapping[int, CommitRecord], shard: Shard) -> bool:
    """Whether a shard is undamaged, and holds the committed rows of its units and no others."""
    held = [records[unit] for unit, _, _ in shard.units if unit in records and dataset.is_in_shard(records[unit])]
    return (
        len(held) == len(shard.units)
        and sum(record.rows for record in held) == shard.rows
        and dataset.shard_reader.shard_problem(shard) is None
        and all(_has_rows_of_part(dataset, dataset.shard_reader, record) for record in held)
    )


def _has_rows_of_part(dataset: Dataset, reader: ShardReader, record: CommitRecord) -> bool:
    """Whether the rows of a unit in its shard are those of its part; parts that are gone were compared before."""
    part = dataset.parts / record.part
    return not part.is_file() or reader.has_rows(record.unit, open_rows(part).batches())


def _up_to_date_index(dataset: Dataset, shards: Sequence[Shard]) -> IndexFile | None:
    """Return the index of these shards, written if there is none or it is damaged; without shards there is none."""
    listed = dataset.shard_reader
    if not shards:
        return None
    if listed.index and list(listed.shards) == list(shards) and not index_problem(dataset.index, listed.index):
        return listed.index
    return KeyIndex.of_shards(ShardReader(dataset.shards, shards)).write(dataset.index, shards)


def _groups(records: Sequence[CommitRecord], shard_bytes: int) -> Iterator[list[CommitRecord]]:
    group: list[CommitRecord] = []
    size_bytes = 0
    for record in records:
        group.append(record)
        size_bytes += record.part_bytes
        if size_bytes >= shard_bytes:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def _write_shards(
    dataset: Dataset,
    settings: DatasetSettings,
    first_number: int,
    groups: Sequence[Sequence[CommitRecord]],
    stop: StopFlag,
) -> list[Shard]:
    shards = []
    for number, group in enumerate(tqdm(groups, "seal", unit="shard", disable=None), first_number):
        stop.raise_if_set("nothing was changed")
        shards.append(_write_shard(dataset, settings, number, group))
    return shards


def _write_shard(dataset: Dataset, settings: DatasetSettings, number: int, group: Sequence[CommitRecord]) -> Shard:
    """Write a shard and read it back. Raises DatasetError if a part is damaged or the disk returned other bytes."""
    batches: list[pa.RecordBatch] = []
    units = []
    for record in group:
        dataset.check_part(record)
        first = len(batches)
        batches += dataset.batches(record)
        units.append((record.unit, first, len(batches) - first))
    content = dump_batches(batches, row_schema(settings))
    name, sha256 = write_hashed_file(dataset.shards, f"codes-{number:05d}", content, "arrow")
    shard = Shard(name, len(content), sha256, sum(record.rows for record in group), tuple(units))
    reader = ShardReader(dataset.shards, [shard])
    problem = reader.shard_problem(shard)
    if problem or not all(_has_rows_of_part(dataset, reader, record) for record in group):
        raise DatasetError(f"{problem or dataset.shards / name}: the disk returned other rows than were written")
    return shard


def _remove_merged(
    dataset: Dataset,
    records: Mapping[int, CommitRecord],
    shards: Sequence[Shard],
    index: IndexFile | None,
    keep_parts: bool,
) -> None:
    """Remove the files of ours that the manifest no longer needs."""
    listed = {shard.shard for shard in shards} | {index.file if index else ""}
    for directory in (dataset.shards, dataset.index):
        for name in names_in(directory):
            if name not in listed and name.startswith(("codes-", "index.", "keys.")):
                remove_file(directory / name)
    for unit in () if keep_parts else (unit for shard in shards for unit, _, _ in shard.units):
        (dataset.parts / records[unit].part).unlink(missing_ok=True)
