"""Sets damaged units of a dataset aside and keeps their intact rows, so that the job that wrote them completes them.

A unit whose shard is damaged gets its part back if the rows in the shard give exactly that part again. For other
units the rows whose codes match their checksums are kept as the rows of an interrupted unit. The commit record moves
to `damaged/`, where it states which bytes the repaired unit must have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from shared.dataset.arrow_file import dump_rows
from shared.dataset.commit import CommitRecord, UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import shards_of_index
from shared.dataset.partial import save_partial
from shared.dataset.plan import Plan
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.errors import DatasetError
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory, names_in, sha256_of


@dataclass(frozen=True, slots=True)
class DamagedUnit:
    """A unit that was set aside: `kept` of its `rows` are intact. `rows` is 0 if its commit record was damaged."""

    unit: int
    kept: int
    rows: int
    problem: str


def set_damaged_aside(dataset: Dataset, plan: Plan) -> list[DamagedUnit]:
    """Set damaged units aside. Call this only while no other job works on the dataset.

    Raises DatasetError if the plan itself is damaged.
    """
    _rebuild_manifest(dataset, plan)
    damaged = [found for unit in dataset.committed_units() if (found := _check_unit(dataset, plan, unit))]
    _drop_damaged_shards(dataset, plan)
    return damaged


def repaired_units(dataset: Dataset) -> Iterator[tuple[int, bool]]:
    """Yield every unit that was set aside and is committed again, and whether it has the bytes it had before."""
    for name in sorted(names_in(dataset.damaged)):
        before = CommitRecord.read(dataset.damaged / name)
        if dataset.is_committed(before.unit):
            is_same = dataset.record(before.unit).part_sha256 == before.part_sha256
            (dataset.damaged / name).unlink()
            yield before.unit, is_same
    if not names_in(dataset.damaged) and dataset.damaged.is_dir():
        dataset.damaged.rmdir()


def _rebuild_manifest(dataset: Dataset, plan: Plan) -> None:
    """Write a damaged manifest again: the commit records list the parts, the index lists the shards."""
    try:
        if dataset.manifest_path.is_file():
            dataset.manifest()
    except DatasetError:
        shards = shards_of_index(dataset.shards)
        dataset.manifest_path.unlink()
        dataset.write_manifest(plan, shards)


def _check_unit(dataset: Dataset, plan: Plan, unit: int) -> DamagedUnit | None:
    """Set a unit aside if it is damaged and cannot be restored from its shard."""
    try:
        record = dataset.record(unit)
    except DatasetError as error:
        dataset.record_path(unit).unlink()
        return DamagedUnit(unit, 0, 0, str(error))
    problem = dataset.part_problem(record)
    if problem and _restore_part(dataset, plan, record):
        return None
    problem = problem or dataset.quarantine_problem(record)
    return _set_aside(dataset, plan, record, problem) if problem else None


def _restore_part(dataset: Dataset, plan: Plan, record: CommitRecord) -> bool:
    """Write the part of a sealed unit again. Returns False if the shard does not give the same bytes."""
    path = dataset.parts / record.part
    if record.unit not in dataset.shard_reader or path.is_file():
        return False
    rows = _intact_rows(dataset, record)
    write_file(path, dump_rows(rows, plan.settings.format, plan.settings.fingerprints()))
    if sha256_of(path) == record.part_sha256:
        return True
    path.unlink()
    return False


def _set_aside(dataset: Dataset, plan: Plan, record: CommitRecord, problem: str) -> DamagedUnit:
    rows = _intact_rows(dataset, record)
    if rows:
        keys = {row.key for row in rows}
        quality = [sample for sample in record.quality if sample["key"] in keys]
        save_partial(dataset, plan, UnitResult(record.unit, rows, numerics=record.numerics, quality=quality))
    make_directory(dataset.damaged)
    path = dataset.record_path(record.unit)
    write_file(dataset.damaged / path.name, path.read_bytes())
    path.unlink()
    (dataset.parts / record.part).unlink(missing_ok=True)
    return DamagedUnit(record.unit, len(rows), record.rows, problem)


def _intact_rows(dataset: Dataset, record: CommitRecord) -> list[CodeRecord]:
    """Return the rows whose codes match their checksums, up to the first batch that cannot be read."""
    rows: list[CodeRecord] = []
    try:
        for batch in dataset.batches(record):
            damaged = set(damaged_keys(batch))
            rows += [row for row in _readable_rows(batch) if row.key not in damaged]
    except (DatasetError, pa.ArrowException, LookupError, TypeError, AttributeError):
        pass  # the damage is reported by the caller
    return rows


def _readable_rows(batch: pa.RecordBatch) -> Iterator[CodeRecord]:
    for index in range(batch.num_rows):
        try:
            yield from from_record_batch(batch.slice(index, 1))
        except (ValueError, LookupError, TypeError):
            continue


def _drop_damaged_shards(dataset: Dataset, plan: Plan) -> None:
    """List intact shards only; by now all units of the others have parts again or were set aside."""
    shards = dataset.shard_reader.shards
    intact = [shard for shard in shards if dataset.shard_reader.problem(shard.units[0][0]) is None]
    if len(intact) < len(shards):
        dataset.write_manifest(plan, intact)
