"""Sets damaged units of a dataset aside, keeping what is whole in them, so that the job that made them mends them.

A unit whose shard is damaged gets its part back if the rows in the shard give exactly that part again. Of others the
rows whose codes match their checksums are kept as those of an interrupted unit. The commit record goes to `damaged/`,
where it says what the mended unit must be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shared.dataset.dataset import CommitRecord, Dataset, part_bytes
from shared.dataset.partial import save_partial
from shared.dataset.plan import Plan
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.dataset.shard_index import shards_of_index
from shared.errors import DatasetError
from shared.storage.atomic import write_file
from shared.storage.checked_json import load_sealed
from shared.storage.paths import make_directory, names_in, sha256_of


@dataclass(frozen=True, slots=True)
class SetAside:
    """A damaged unit: rows kept of those it had, and the problem. `rows` is 0 if its record was damaged too."""

    unit: int
    kept: int
    rows: int
    problem: str


def set_damaged_aside(dataset: Dataset, plan: Plan) -> list[SetAside]:
    """To be called while no other job works on the dataset. Raises DatasetError if the plan itself is damaged."""
    _mend_manifest(dataset, plan)
    found = []
    for unit in dataset.committed_units():
        try:
            record = dataset.record(unit)
        except DatasetError as error:
            dataset.record_path(unit).unlink()
            found.append(SetAside(unit, 0, 0, str(error)))
            continue
        problem = dataset.part_problem(record)
        if problem and _restore_part(dataset, plan, record):
            continue
        if problem := problem or _quarantine_problem(dataset, record):
            found.append(_set_aside(dataset, plan, record, problem))
    _forget_damaged_shards(dataset, plan)
    return found


def _mend_manifest(dataset: Dataset, plan: Plan) -> None:
    """What the manifest says can be counted again; which shards there are also stands in their index."""
    try:
        if dataset.manifest_path.is_file():
            dataset.manifest()
    except DatasetError:
        shards = shards_of_index(dataset)
        dataset.manifest_path.unlink()
        dataset.write_manifest(plan, shards)


def _restore_part(dataset: Dataset, plan: Plan, record: CommitRecord) -> bool:
    """Writes the part of a sealed unit again. False if the shard does not give the same bytes."""
    if record.unit not in dataset.sealed or (dataset.parts / record.part).is_file():
        return False
    rows = _whole_rows(dataset, record)
    content = part_bytes(rows, plan.settings.format, plan.settings.fingerprints())
    temporary = dataset.parts / record.part
    write_file(temporary, content)
    if sha256_of(temporary) == record.part_sha256:
        return True
    temporary.unlink()
    return False


def _quarantine_problem(dataset: Dataset, record: CommitRecord) -> str | None:
    if record.quarantine is None or sha256_of(dataset.quarantine / record.quarantine) == record.quarantine_sha256:
        return None
    return f"{dataset.quarantine / record.quarantine}: damaged or missing"


def _set_aside(dataset: Dataset, plan: Plan, record: CommitRecord, problem: str) -> SetAside:
    rows = _whole_rows(dataset, record)
    if rows:
        kept = {row.key for row in rows}
        quality = [sample for sample in record.quality if sample["key"] in kept]
        save_partial(dataset, record.unit, rows, quality, plan, record.numerics)
    make_directory(dataset.damaged)
    write_file(dataset.damaged / dataset.record_path(record.unit).name, dataset.record_path(record.unit).read_bytes())
    dataset.record_path(record.unit).unlink()
    (dataset.parts / record.part).unlink(missing_ok=True)
    return SetAside(record.unit, len(rows), record.rows, problem)


def _whole_rows(dataset: Dataset, record: CommitRecord) -> list[CodeRecord]:
    """Rows whose codes match their checksums."""
    rows: list[CodeRecord] = []
    try:
        for batch in dataset.batches(record):
            damaged = set(damaged_keys(batch))
            rows += [row for row in _rows(batch) if row.key not in damaged]
    except (DatasetError, pa.ArrowException, LookupError, TypeError, AttributeError):
        pass  # what follows cannot be read
    return rows


def _rows(batch: pa.RecordBatch) -> Iterator[CodeRecord]:
    """Rows of a batch, as far as they can be rows at all."""
    for index in range(batch.num_rows):
        try:
            yield from from_record_batch(batch.slice(index, 1))
        except (ValueError, LookupError, TypeError):
            continue


def _forget_damaged_shards(dataset: Dataset, plan: Plan) -> None:
    """A shard stays listed only if it is whole; all its units have parts or are set aside else."""
    good = [shard for shard in dataset.sealed.shards if dataset.sealed.check(shard.units[0][0]) is None]
    if len(good) < len(dataset.sealed.shards):
        dataset.write_manifest(plan, good)


def mended(dataset: Dataset) -> Iterator[tuple[int, bool]]:
    """Every unit that was set aside and is committed again, and whether its bytes are those it had."""
    for name in sorted(names_in(dataset.damaged)):
        before: dict[str, Any] = load_sealed((dataset.damaged / name).read_bytes(), name)
        unit = before["unit"]
        if dataset.is_committed(unit):
            is_same = dataset.record(unit).part_sha256 == before["part_sha256"]
            (dataset.damaged / name).unlink()
            yield unit, is_same
    if not names_in(dataset.damaged) and dataset.damaged.is_dir():
        dataset.damaged.rmdir()
