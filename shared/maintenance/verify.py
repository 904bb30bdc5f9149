"""Checks every file and row of a dataset against its checksums and computes the dataset digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import KeyIndex, index_path, shards_of_index
from shared.dataset.plan import Plan
from shared.dataset.rows import SCHEMAS, DatasetDigest, damaged_keys, from_record_batch
from shared.errors import DatasetError
from shared.storage.checked_json import load_checked_json
from shared.storage.paths import names_in


@dataclass(slots=True)
class VerifyReport:
    """`problems` name what is wrong and where; `digest` covers the undamaged units and is empty without a plan."""

    planned_units: int = 0
    units: int = 0
    rows: int = 0
    quarantined: int = 0
    problems: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def is_complete(self) -> bool:
        return self.units == self.planned_units


def verify_dataset(dataset: Dataset, on_unit: Callable[[], None] = lambda: None) -> VerifyReport:
    """Read everything once; a file is parsed only after its checksum was verified. Calls `on_unit` after each unit."""
    report = VerifyReport()
    records = _checked_records(dataset, report)
    plan = _checked_plan(dataset, records, report)
    report.planned_units = len(plan) if plan else report.units
    report.quarantined -= sum(plan.retried.values()) if plan else 0
    digest = DatasetDigest(plan.settings.fingerprints()) if plan else None
    for record in records:
        problems = list(_unit_problems(dataset, plan, record))
        report.problems += problems
        report.rows += record.rows
        report.quarantined += record.refused
        if digest and not problems:
            for batch in dataset.batches(record):
                digest.add(row.digest() for row in from_record_batch(batch))
        on_unit()
    report.problems += [*_manifest_problems(dataset, records), *_unlisted_parts(dataset, records)]
    report.problems += _index_problems(dataset)
    report.digest = digest.hexdigest() if digest else ""
    return report


def _checked_records(dataset: Dataset, report: VerifyReport) -> list[CommitRecord]:
    records = []
    for unit in dataset.committed_units():
        report.units += 1
        try:
            records.append(dataset.record(unit))
        except DatasetError as error:
            report.problems.append(str(error))
    return records


def _checked_plan(dataset: Dataset, records: Sequence[CommitRecord], report: VerifyReport) -> Plan | None:
    """Return the plan, None if it is damaged: the commit records hold its checksum."""
    try:
        plan = dataset.plan()
    except DatasetError as error:
        report.problems.append(str(error))
        return None
    for record in records:
        found = plan.sha256_of(record.unit) if record.unit < len(plan) else "missing"
        if record.plan_sha256 != found:
            report.problems.append(
                f"{dataset.plan_path}: sha256 {found[:12]}, unit {record.unit} expects {record.plan_sha256[:12]}"
            )
            return None
    return plan


def _unit_problems(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    if problem := dataset.part_problem(record):
        yield problem
    else:
        yield from _row_problems(dataset, plan, record)
    if problem := dataset.quarantine_problem(record):
        yield problem


def _row_problems(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    rows = 0
    for batch in dataset.batches(record):
        rows += batch.num_rows
        if plan and not batch.schema.equals(SCHEMAS[plan.settings.format]):
            yield f"{record.part}: the columns are not those of {plan.settings.format}"
        for key in damaged_keys(batch):
            yield f"{record.part}: row {key!r}: codes do not match their checksum"
        codes = batch.column("codes").values.to_numpy()
        if plan and codes.size and int(codes.max()) >= plan.settings.codec.codebook_size:
            yield f"{record.part}: code {codes.max()} is outside the codebook of {plan.settings.codec.codebook_size}"
    if rows != record.rows or (plan and rows + record.refused != len(plan.unit(record.unit).inputs)):
        yield f"{record.part}: {rows} rows and {record.refused} quarantined do not add up to the planned inputs"


def _manifest_problems(dataset: Dataset, records: Sequence[CommitRecord]) -> Iterator[str]:
    """Check manifest and canary, and that every listed part has its commit record.

    Units that were added after the manifest was written are listed by the next one.
    """
    committed = {record.unit: record.part_sha256 for record in records}
    try:
        if dataset.canary_path.is_file():
            load_checked_json(dataset.canary_path.read_bytes(), str(dataset.canary_path))
    except DatasetError as error:
        yield str(error)
    try:
        parts = dataset.manifest().parts if dataset.manifest_path.is_file() else ()
    except DatasetError as error:
        yield str(error)
        return
    for part in parts:
        if committed.get(part.unit) != part.sha256:
            yield f"{dataset.manifest_path}: lists {part.part}, which has no such commit record"


def _index_problems(dataset: Dataset) -> Iterator[str]:
    """Compare the index by key with the shards; damaged shards and manifests are reported elsewhere."""
    try:
        shards = dataset.shard_reader.shards
        path = index_path(dataset.shards, shards)
        if not path.is_file():
            return  # readers by key build one in memory
        expected = KeyIndex.of_shards(dataset.shard_reader)
    except DatasetError:
        return
    try:
        is_equal = KeyIndex.read(path).equals(expected) and shards_of_index(dataset.shards) == list(shards)
    except (DatasetError, pa.ArrowException, LookupError, ValueError, TypeError):
        is_equal = False
    if not is_equal:
        yield f"{path}: damaged: does not match the shards; delete it and run `emu3 seal`"


def _unlisted_parts(dataset: Dataset, records: Sequence[CommitRecord]) -> Iterator[str]:
    named = {record.part for record in records}
    for name in sorted(names_in(dataset.parts)):
        if name.endswith(".arrow") and name not in named:
            yield f"{dataset.parts / name}: has no commit record; the next run removes it"
