"""Merges the parts of a complete dataset into shards, with an index of every row; a killed run changes nothing.

Shards first, under names that carry their hashes; then the index; then the manifest, which makes them exist; then
parts that are in shards, and shards that no manifest lists, are removed. What was added since is merged with the last
shard, if that is small, or makes new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from tqdm import tqdm

from shared.dataset.dataset import CommitRecord, Dataset, row_schema
from shared.dataset.plan import Plan
from shared.dataset.shard_index import index_path, write_index
from shared.dataset.shards import Shard
from shared.errors import DatasetError, UsageError
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.maintenance.sweep import sweep
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory, names_in

_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class SealOptions:
    """`shard_bytes` is the least size of a shard but the last; a shard never cuts a unit."""

    dataset: str
    shard_bytes: int = 128 << 20
    keep_parts: bool = False

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-mb: expected more than 0, got {self.shard_bytes} bytes")


@dataclass(frozen=True, slots=True)
class SealResult:
    """Shards there are now, how many of them this run wrote, and their rows and bytes."""

    shards: int
    written: int
    rows: int
    bytes: int


def seal(options: SealOptions) -> SealResult:
    """Raises DatasetError if units are missing or a part is damaged: nothing is removed then."""
    dataset = Dataset.open(options.dataset)
    with stop_on_signals() as stop, job_lock(dataset.root, partial(sweep, dataset)):
        plan = dataset.plan()
        if missing := dataset.missing_units(plan):
            raise DatasetError(f"{options.dataset}: {len(missing)} of {len(plan)} units are missing: finish it first")
        shards, written = _write_shards(dataset, plan, options, stop)
        if written or not index_path(dataset, shards).is_file():
            write_index(dataset, shards)
        dataset.write_manifest(plan, shards)
        _clear(dataset, shards, options.keep_parts)
    return SealResult(len(shards), written, sum(s.rows for s in shards), sum(s.bytes for s in shards))


def _write_shards(dataset: Dataset, plan: Plan, options: SealOptions, stop: StopFlag) -> tuple[list[Shard], int]:
    """All shards in order: those that stay, and the new ones."""
    kept = [shard for shard in dataset.sealed.shards if (dataset.shards / shard.shard).is_file()]
    sealed = {unit for shard in kept for unit, _, _ in shard.units}
    records = list(dataset.commit_records())
    if kept and kept[-1].bytes < options.shard_bytes and any(record.unit not in sealed for record in records):
        sealed -= {unit for unit, _, _ in kept.pop().units}
    left = [record for record in records if record.rows and record.unit not in sealed]
    groups = list(_groups(left, options.shard_bytes))
    make_directory(dataset.shards)
    new = []
    for number, group in enumerate(tqdm(groups, "seal", unit="shard", disable=None), len(kept)):
        stop.raise_if_set("nothing was changed")
        new.append(_write_shard(dataset, plan, number, group))
    return kept + new, len(new)


def _groups(records: Sequence[CommitRecord], shard_bytes: int) -> Iterator[list[CommitRecord]]:
    group: list[CommitRecord] = []
    for record in records:
        group.append(record)
        if sum(one.part_bytes for one in group) >= shard_bytes:
            yield group
            group = []
    if group:
        yield group


def _write_shard(dataset: Dataset, plan: Plan, number: int, group: Sequence[CommitRecord]) -> Shard:
    sink, units, batches = pa.BufferOutputStream(), [], 0
    with pa.ipc.new_file(sink, row_schema(plan.settings.format, plan.settings.fingerprints())) as writer:
        for record in group:
            dataset.check_part(record)
            first = batches
            for batch in dataset.batches(record):
                writer.write_batch(batch)
                batches += 1
            units.append((record.unit, first, batches - first))
    content = sink.getvalue()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"codes-{number:05d}.{sha256[:_HASH_DIGITS]}.arrow"
    write_file(dataset.shards / name, content)
    return Shard(name, len(content), sha256, sum(record.rows for record in group), tuple(units))


def _clear(dataset: Dataset, shards: Sequence[Shard], keep_parts: bool) -> None:
    """Removes what the manifest does not need any more."""
    listed = {shard.shard for shard in shards} | {index_path(dataset, shards).name}
    for name in names_in(dataset.shards):
        if name not in listed:
            (dataset.shards / name).unlink(missing_ok=True)
    sealed = {unit for shard in shards for unit, _, _ in shard.units}
    for record in () if keep_parts else dataset.commit_records():
        if record.unit in sealed:
            (dataset.parts / record.part).unlink(missing_ok=True)
