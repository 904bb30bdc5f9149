"""Merges the parts of a complete dataset into shards, with an index by key. A killed run changes nothing.

The order is: shards, under names that carry their hashes; the index; the manifest, which makes them visible; then the
parts that are in shards, and shards that the manifest does not list, are removed. Units that were added since the
last run are merged with the last shard if that is small, or into new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from tqdm import tqdm

from shared.dataset.arrow_file import dump_batches, row_schema
from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import KeyIndex, index_path
from shared.dataset.settings import DatasetSettings
from shared.dataset.shards import Shard, ShardReader
from shared.errors import DatasetError, UsageError
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.maintenance.sweep import sweep
from shared.storage.atomic import write_hashed_file
from shared.storage.paths import names_in


@dataclass(frozen=True, slots=True)
class SealOptions:
    """`shard_bytes` is the minimum size of every shard except the last; a unit is never split between shards."""

    dataset: str
    shard_bytes: int = 128 << 20
    keep_parts: bool = False

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-mb: expected more than 0, got {self.shard_bytes} bytes")


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
        if missing := dataset.missing_units(plan):
            raise DatasetError(
                f"{options.dataset}: {len(missing)} of {len(plan)} units are missing; finish the job that writes it"
            )
        kept, new_groups = _grouped_units(dataset, options.shard_bytes)
        shards = kept + _write_shards(dataset, plan.settings, len(kept), new_groups, stop)
        if new_groups or not index_path(dataset.shards, shards).is_file():
            KeyIndex.of_shards(ShardReader(dataset.shards, shards)).write(dataset.shards, shards)
        dataset.write_manifest(plan, shards)
        _remove_merged(dataset, shards, options.keep_parts)
    return SealResult(len(shards), len(new_groups), sum(s.rows for s in shards), sum(s.bytes for s in shards))


def _grouped_units(dataset: Dataset, shard_bytes: int) -> tuple[list[Shard], list[list[CommitRecord]]]:
    """Return the shards that stay, and the units of each new one."""
    kept = [shard for shard in dataset.shard_reader.shards if (dataset.shards / shard.shard).is_file()]
    sealed = {unit for shard in kept for unit, _, _ in shard.units}
    records = list(dataset.commit_records())
    if kept and kept[-1].bytes < shard_bytes and any(record.unit not in sealed for record in records):
        sealed -= {unit for unit, _, _ in kept.pop().units}
    return kept, list(_groups([record for record in records if record.rows and record.unit not in sealed], shard_bytes))


def _groups(records: Sequence[CommitRecord], shard_bytes: int) -> Iterator[list[CommitRecord]]:
    group: list[CommitRecord] = []
    for record in records:
        group.append(record)
        if sum(member.part_bytes for member in group) >= shard_bytes:
            yield group
            group = []
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
    batches: list[pa.RecordBatch] = []
    units = []
    for record in group:
        dataset.check_part(record)
        first = len(batches)
        batches += dataset.batches(record)
        units.append((record.unit, first, len(batches) - first))
    content = dump_batches(batches, row_schema(settings.format, settings.fingerprints()))
    name, sha256 = write_hashed_file(dataset.shards, f"codes-{number:05d}", content, "arrow")
    return Shard(name, len(content), sha256, sum(record.rows for record in group), tuple(units))


def _remove_merged(dataset: Dataset, shards: Sequence[Shard], keep_parts: bool) -> None:
    """Remove the files that the manifest no longer needs."""
    listed = {shard.shard for shard in shards} | {index_path(dataset.shards, shards).name}
    for name in names_in(dataset.shards):
        if name not in listed:
            (dataset.shards / name).unlink(missing_ok=True)
    sealed = {unit for shard in shards for unit, _, _ in shard.units}
    for record in () if keep_parts else dataset.commit_records():
        if record.unit in sealed:
            (dataset.parts / record.part).unlink(missing_ok=True)
