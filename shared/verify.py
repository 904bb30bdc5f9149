"""Checks every file and row of a dataset against its checksums and computes the dataset's digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from shared.dataset import CommitRecord, Dataset
from shared.errors import DatasetError
from shared.plan import Plan
from shared.records import SCHEMA, DatasetDigest, damaged_keys, from_record_batch
from shared.sealed import load_sealed


@dataclass(slots=True)
class VerifyReport:
    """`problems` name what is wrong and where; `digest` is over the rows that could be read."""

    planned_units: int
    units: int = 0
    rows: int = 0
    quarantined: int = 0
    problems: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def is_complete(self) -> bool:
        return self.units == self.planned_units


def verify_dataset(dataset: Dataset, on_unit: Callable[[], None] = lambda: None) -> VerifyReport:
    """Reads everything once. `on_unit` is called after every unit. Raises DatasetError if there is no plan."""
    plan = dataset.plan()
    report = VerifyReport(len(plan))
    digest = DatasetDigest(dataset.fingerprints(plan.settings))
    parts = set()
    for unit in dataset.committed_units():
        try:
            record = dataset.record(unit)
            parts.add(record.part)
            report.problems += _check_unit(dataset, plan, record)
            for batch in dataset.batches(record):
                digest.add(row.digest() for row in from_record_batch(batch))
            report.rows += record.rows
            report.quarantined += sum(record.quarantined.values())
        except (DatasetError, pa.ArrowInvalid, ValueError, IndexError, OSError) as error:
            report.problems.append(f"unit {unit}: {error}")
        report.units += 1
        on_unit()
    report.problems += _check_canary(dataset)
    report.problems += _check_manifest(dataset, report, plan)
    report.problems += [
        f"{path}: expected to belong to a commit record, belongs to none"
        for path in sorted(dataset.parts.glob("*.arrow"))
        if path.name not in parts and not report.problems
    ]
    report.digest = digest.hexdigest()
    return report


def _check_unit(dataset: Dataset, plan: Plan, record: CommitRecord) -> Iterator[str]:
    if record.plan_sha256 != plan.sha256:
        yield f"{dataset.plan_path}: sha256 {plan.sha256[:12]} expected {record.plan_sha256[:12]} by unit {record.unit}"
    path = dataset.parts / record.part
    if not path.is_file():
        yield f"{path}: missing"
        return
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != record.part_sha256:
        yield f"{path}: sha256 {sha256[:12]} expected {record.part_sha256[:12]}; {_damage(dataset, record)}"
    else:
        yield from _check_rows(dataset, plan, record)
    if record.quarantine is not None:
        listed = dataset.quarantine / record.quarantine
        found = hashlib.sha256(listed.read_bytes()).hexdigest() if listed.is_file() else "missing"
        if found != record.quarantine_sha256:
            yield f"{listed}: sha256 {found[:12]} expected {str(record.quarantine_sha256)[:12]}"


def _damage(dataset: Dataset, record: CommitRecord) -> str:
    try:
        keys = [key for batch in dataset.batches(record) for key in damaged_keys(batch)]
    except (DatasetError, pa.ArrowInvalid, ValueError, IndexError, UnicodeDecodeError) as error:
        return f"its rows cannot be read: {error}"
    if not keys:
        return "all codes match their checksums, the damage is elsewhere in the file"
    return f"damaged rows: {', '.join(repr(key) for key in keys[:8])}{' …' if len(keys) > 8 else ''}"


def _check_rows(dataset: Dataset, plan: Plan, record: CommitRecord) -> Iterator[str]:
    codebook_size, rows = plan.settings["codec"]["codebook_size"], 0
    for batch in dataset.batches(record):
        rows += batch.num_rows
        if not batch.schema.equals(SCHEMA):
            yield f"{record.part}: columns differ from the format's"
        for key in damaged_keys(batch):
            yield f"{record.part}: row {key!r}: codes do not match their checksum"
        codes = batch.column("codes").values.to_numpy()
        if codes.size and int(np.max(codes)) >= codebook_size:
            yield f"{record.part}: code {int(np.max(codes))} expected below the codebook's {codebook_size}"
    planned = len(plan.unit(record.unit).inputs)
    if rows != record.rows or rows + sum(record.quarantined.values()) != planned:
        yield f"{record.part}: {rows} rows and {sum(record.quarantined.values())} quarantined, planned {planned}"


def _check_canary(dataset: Dataset) -> Iterator[str]:
    if dataset.canary_path.is_file():
        try:
            load_sealed(dataset.canary_path.read_bytes(), str(dataset.canary_path))
        except DatasetError as error:
            yield str(error)


def _check_manifest(dataset: Dataset, report: VerifyReport, plan: Plan) -> Iterator[str]:
    if not dataset.manifest_path.is_file():
        return
    try:
        manifest = dataset.manifest()
        if manifest["plan_sha256"] != plan.sha256:
            yield f"{dataset.manifest_path}: made for another plan.arrow: sha256 {plan.sha256[:12]}"
        if not report.problems and (manifest["rows"], len(manifest["parts"])) != (report.rows, report.units):
            yield (
                f"{dataset.manifest_path}: {manifest['rows']} rows in {len(manifest['parts'])} parts,"
                f" found {report.rows} in {report.units}"
            )
    except DatasetError as error:
        yield str(error)
