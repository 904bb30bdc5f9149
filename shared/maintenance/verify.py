"""Checks every file and row of a dataset against its checksums and computes the dataset's digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.dataset.dataset import CommitRecord, Dataset
from shared.dataset.plan import Plan
from shared.dataset.rows import SCHEMAS, DatasetDigest, damaged_keys, from_record_batch
from shared.errors import DatasetError
from shared.storage.checked_json import load_sealed
from shared.storage.paths import names_in, sha256_of


@dataclass(slots=True)
class VerifyReport:
    """`problems` name what is wrong and where; `digest` is over the undamaged rows, empty without a plan."""

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
    """Reads everything once; no file is interpreted before its checksum was compared.

    `on_unit` is called after every unit.
    """
    report = VerifyReport()
    records = []
    for unit in dataset.committed_units():
        report.units += 1
        try:
            records.append(dataset.record(unit))
        except DatasetError as error:
            report.problems.append(str(error))
    plan = _checked_plan(dataset, records, report)
    report.planned_units = len(plan) if plan else report.units
    report.quarantined -= sum(plan.retried.values()) if plan else 0
    digest = DatasetDigest(plan.settings.fingerprints()) if plan else None
    for record in records:
        problems = list(_check_unit(dataset, plan, record))
        report.problems += problems
        report.rows += record.rows
        report.quarantined += sum(record.quarantined.values())
        if digest and not problems:
            for batch in dataset.batches(record):
                digest.add(row.digest() for row in from_record_batch(batch))
        on_unit()
    report.problems += [*_check_sealed(dataset, records), *_strays(dataset, records)]
    report.digest = digest.hexdigest() if digest else ""
    return report


def _checked_plan(dataset: Dataset, records: Sequence[CommitRecord], report: VerifyReport) -> Plan | None:
    try:
        plan = dataset.plan()
    except DatasetError as error:
        report.problems.append(str(error))
        return None
    for record in records:
        found = plan.sha256_of(record.unit) if record.unit < len(plan) else "missing"
        if record.plan_sha256 != found:
            report.problems.append(
                f"{dataset.plan_path}: sha256 {found[:12]} expected {record.plan_sha256[:12]} by unit {record.unit}"
            )
            return None
    return plan


def _check_unit(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    if problem := dataset.part_problem(record):
        yield problem
    else:
        yield from _check_rows(dataset, plan, record)
    if record.quarantine is not None:
        listed = dataset.quarantine / record.quarantine
        if (found := sha256_of(listed)) != record.quarantine_sha256:
            yield f"{listed}: sha256 {found[:12]} expected {str(record.quarantine_sha256)[:12]}"


def _check_rows(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    rows = 0
    for batch in dataset.batches(record):
        rows += batch.num_rows
        if plan and not batch.schema.equals(SCHEMAS[plan.settings.format]):
            yield f"{record.part}: columns differ from the format's"
        for key in damaged_keys(batch):
            yield f"{record.part}: row {key!r}: codes do not match their checksum"
        codes = batch.column("codes").values.to_numpy()
        if plan and codes.size and int(np.max(codes)) >= plan.settings.codec.codebook_size:
            yield f"{record.part}: code {int(np.max(codes))} is outside the codebook"
    refused = sum(record.quarantined.values())
    if rows != record.rows or (plan and rows + refused != len(plan.unit(record.unit).inputs)):
        yield f"{record.part}: {rows} rows and {refused} quarantined do not add up to the planned inputs"


def _check_sealed(dataset: Dataset, records: Sequence[CommitRecord]) -> Iterator[str]:
    """Every part that the manifest lists has its record; units added since come with the next one."""
    committed = {record.unit: record.part_sha256 for record in records}
    for path in (dataset.canary_path, dataset.manifest_path):
        try:
            value = load_sealed(path.read_bytes(), str(path)) if path.is_file() else {}
        except DatasetError as error:
            yield str(error)
            continue
        for part in value.get("parts", ()):
            if committed.get(part["unit"]) != part["sha256"]:
                yield f"{path}: lists {part['part']}, which has no such commit record"


def _strays(dataset: Dataset, records: Sequence[CommitRecord]) -> Iterator[str]:
    named = {record.part for record in records}
    for name in sorted(names_in(dataset.parts)):
        if name.endswith(".arrow") and name not in named:
            yield f"{dataset.parts / name}: belongs to no commit record; the next run clears it away"
