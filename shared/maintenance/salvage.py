"""Sets damaged units of a dataset aside and keeps their intact rows, so that the job that wrote them completes them.

A unit whose part is damaged gets it back if the rows in a shard give exactly that part again. For other units the rows
whose codes match their checksums are kept as the rows of an interrupted unit. The commit record moves to `damaged/`,
where it states which bytes the repaired unit must have. A manifest that is damaged or lost is written again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import dump_rows
from shared.dataset.commit import CommitRecord, UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import save_partial
from shared.dataset.paths import unit_and_suffix
from shared.dataset.plan import Plan, addition_path
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.dataset.shards import ShardReader
from shared.errors import DatasetError
from shared.maintenance.shard_recovery import recover_shards
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory, names_in, sha256_of


@dataclass(frozen=True, slots=True)
class DamagedUnit:
    """A unit that was set aside: `kept` of its `rows` are intact. `rows` is 0 if nothing tells how many there were."""

    unit: int
    kept: int
    rows: int
    problem: str


def set_damaged_aside(
    dataset: Dataset, plan: Plan, on_restored: Callable[[str], None] = lambda what: None
) -> list[DamagedUnit]:
    """Set damaged units aside. Call this only while no other job works on the dataset.

    Calls `on_restored` with a description of what was damaged and could be restored without encoding anything. Raises
    DatasetError if the plan itself is damaged.
    """
    if problem := plan_problem(dataset, plan):
        raise DatasetError(f"{problem}; restore it from a copy: without its plan, a dataset cannot be repaired")
    damaged = list(_drop_damaged_records(dataset, plan))
    _rebuild_manifest(dataset, plan, on_restored)
    units = dataset.committed_units()
    damaged += [found for unit in units if (found := _check_unit(dataset, plan, unit, on_restored))]
    _drop_damaged_shards(dataset, plan)
    return sorted(damaged, key=lambda found: found.unit)


def plan_problem(dataset: Dataset, plan: Plan) -> str | None:
    """Return what is wrong with the files of a plan, None if nothing is.

    A file is wrong if none of the commit records of its units names it. A record that is alone in this is damaged
    itself, and so is one whose plan the manifest names. An addition is missing if a unit after the last planned one
    is committed and its rows are intact.
    """
    unplanned: list[int] = []
    expected: dict[tuple[Path, str], set[str]] = defaultdict(set)
    for unit in dataset.committed_units():
        try:
            record = CommitRecord.read(dataset.record_path(unit), unit)
            is_unplanned = unit >= len(plan) and dataset.part_problem(record) is None
        except DatasetError:
            continue
        if is_unplanned:
            unplanned.append(unit)
        if record.plan_sha256 and unit < len(plan):
            expected[plan.file_of(unit), plan.sha256_of(unit)].add(record.plan_sha256)
    for (path, found), sha256s in sorted(expected.items()):
        if found not in {*sha256s, _sha256_in_manifest(dataset)}:
            named = ", ".join(sha256[:12] for sha256 in sorted(sha256s))
            return f"{path}: sha256 {found[:12]}, but the commit records of its units name {named}"
    addition = addition_path(plan.path, plan.additions + 1)
    if unplanned and not addition.is_file():  # otherwise another job has just added it
        return f"{addition}: missing: the plan has {len(plan)} units, but unit {unplanned[0]} is committed"
    return None


def _sha256_in_manifest(dataset: Dataset) -> str | None:
    try:
        return dataset.manifest().plan_sha256
    except DatasetError:
        return None


def repaired_units(dataset: Dataset) -> Iterator[tuple[int, bool]]:
    """Yield every unit that was set aside and is committed again, and whether it has the bytes it had before."""
    for name in sorted(names_in(dataset.damaged)):
        unit, suffix = unit_and_suffix(name) or (-1, "")
        if suffix == ".json" and dataset.is_committed(unit):
            yield unit, _part_sha256(dataset, name, unit) == dataset.record(unit).part_sha256
            (dataset.damaged / name).unlink()
    if not names_in(dataset.damaged) and dataset.damaged.is_dir():
        dataset.damaged.rmdir()


def _part_sha256(dataset: Dataset, name: str, unit: int) -> str | None:
    """Return the checksum in a record that was set aside, None if the record is damaged."""
    try:
        return CommitRecord.read(dataset.damaged / name, unit).part_sha256
    except DatasetError:
        return None


def _drop_damaged_records(dataset: Dataset, plan: Plan) -> Iterator[DamagedUnit]:
    """Delete commit records that are damaged or belong to another unit or plan; their units are missing then.

    The rows that a shard holds of them are kept if all other units were computed in one way.
    """
    problems: dict[int, str] = {}
    numerics: list[Mapping[str, Any]] = []
    for unit in dataset.committed_units():
        try:
            found = dataset.record(unit).numerics
            numerics += [found] if found and found not in numerics else []
        except DatasetError as error:
            problems[unit] = str(error)
    is_certain = problems and len(numerics) == 1 and _sha256_in_manifest(dataset) == plan.sha256
    shards = dataset.shard_reader if is_certain else ShardReader(dataset.shards)
    for unit, problem in problems.items():
        part = shards.part(unit) if unit < len(plan) else None
        kept = _keep_rows(dataset, plan, unit, shards.batches(unit), numerics[0]) if part else 0
        dataset.record_path(unit).unlink()
        yield DamagedUnit(unit, kept, part.rows if part else 0, problem)


def _rebuild_manifest(dataset: Dataset, plan: Plan, on_restored: Callable[[str], None]) -> None:
    """Write a damaged or lost manifest again: the commit records list the parts, the shards say what they hold."""
    try:
        dataset.shard_reader  # noqa: B018  reads the manifest
    except DatasetError as error:
        shards = recover_shards(dataset, plan, dataset.commit_records()).shards
        dataset.write_manifest(plan, shards)
        on_restored(f"{str(error).removesuffix('; run `emu3 repair`')}: written again with {len(shards)} shards")


def _check_unit(dataset: Dataset, plan: Plan, unit: int, on_restored: Callable[[str], None]) -> DamagedUnit | None:
    """Set a unit aside if it is damaged and cannot be restored from its shard."""
    record = dataset.record(unit)
    problem = dataset.part_problem(record)
    if problem and _restore_part(dataset, plan, record):
        on_restored(f"unit {unit}: all rows restored from its shard")
        problem = None
    problem = problem or dataset.quarantine_problem(record)
    return _set_aside(dataset, plan, record, problem) if problem else None


def _restore_part(dataset: Dataset, plan: Plan, record: CommitRecord) -> bool:
    """Write the part of a sealed unit again. Returns False if the shard does not give the same bytes."""
    if not dataset.is_in_shard(record):
        return False
    rows = _intact_rows(dataset.shard_reader.batches(record.unit), plan)
    content = dump_rows(rows, plan.settings)
    if hashlib.sha256(content).hexdigest() != record.part_sha256:
        return False
    path = dataset.parts / record.part
    write_file(path, content)
    return sha256_of(path) == record.part_sha256


def _set_aside(dataset: Dataset, plan: Plan, record: CommitRecord, problem: str) -> DamagedUnit:
    kept = _keep_rows(dataset, plan, record.unit, dataset.batches(record), record.numerics, record.quality)
    make_directory(dataset.damaged)
    path = dataset.record_path(record.unit)
    write_file(dataset.damaged / path.name, record.to_bytes())
    path.unlink()
    (dataset.parts / record.part).unlink(missing_ok=True)
    return DamagedUnit(record.unit, kept, record.rows, problem)


def _keep_rows(
    dataset: Dataset,
    plan: Plan,
    unit: int,
    batches: Iterable[pa.RecordBatch],
    numerics: Mapping[str, Any],
    quality: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Keep the intact rows of a unit for the job that computes the others; return their number."""
    planned = {(item.src_index, item.key): item.text for item in plan.unit(unit).inputs}
    rows = [row for row in _intact_rows(batches, plan) if _is_planned(row, planned)]
    if rows:
        keys = {row.key for row in rows}
        kept_quality = [sample for sample in quality if sample["key"] in keys]
        save_partial(dataset, plan, UnitResult(unit, rows, numerics=numerics, quality=kept_quality))
    return len(rows)


def _is_planned(row: CodeRecord, planned: Mapping[tuple[int, str], str | None]) -> bool:
    """Whether the key of a row is planned, and its caption if it has one: checksums of rows cover their codes only."""
    identity = row.src_index, row.key
    return identity in planned and planned[identity] in (None, row.text)


def _intact_rows(batches: Iterable[pa.RecordBatch], plan: Plan) -> list[CodeRecord]:
    """Return the rows whose codes match their checksums, up to the first batch that cannot be read.

    Codes of another type than those of the plan's codec do not belong to the dataset.
    """
    rows: list[CodeRecord] = []
    code_dtype = plan.settings.codec.code_dtype
    try:
        for batch in batches:
            damaged = set(damaged_keys(batch))
            intact = (row for row in _readable_rows(batch) if row.key not in damaged)
            rows += [row for row in intact if row.code_dtype == code_dtype]
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
    reader = dataset.shard_reader
    intact = [shard for shard in reader.shards if reader.shard_problem(shard) is None]
    if len(intact) < len(reader.shards):
        dataset.write_manifest(plan, intact)
