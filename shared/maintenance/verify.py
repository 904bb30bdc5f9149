"""Checks every file and row of a dataset against its checksums and computes the dataset digest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from shared.dataset.columns import columns_of
from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.key_index import index_problem
from shared.dataset.paths import unit_and_suffix
from shared.dataset.plan import Plan
from shared.dataset.rows import DatasetDigest, damaged_keys, from_record_batch
from shared.dataset.shards import ShardReader
from shared.dataset.texts import TextUpdates
from shared.errors import DatasetError
from shared.maintenance.salvage import plan_problem
from shared.maintenance.shard_recovery import recover_shards
from shared.storage.checked_json import read_checked_json
from shared.storage.paths import names_in


@dataclass(slots=True)
class VerifyReport:
    """`problems` name what is wrong and where; `digest` covers the `intact_units` and is empty without a plan.

    `units` are committed. `unfinished` names files that a running job will commit, or a killed one has left.
    """

    planned_units: int = 0
    planned_inputs: int = 0
    units: int = 0
    intact_units: int = 0
    rows: int = 0
    quarantined: int = 0
    problems: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    digest: str = ""

    @property
    def is_complete(self) -> bool:
        return self.units == self.planned_units

    @property
    def missing_inputs(self) -> int:
        """The number of planned inputs that are neither in a row nor in quarantine."""
        return max(0, self.planned_inputs - self.rows - self.quarantined)


def verify_dataset(dataset: Dataset, on_unit: Callable[[], None] = lambda: None) -> VerifyReport:
    """Read everything once; a file is parsed only after its checksum was verified. Calls `on_unit` after each unit.

    Jobs may keep writing: a unit that is committed during the check may not be counted, but is never a problem.
    """
    report, units = VerifyReport(), dataset.committed_units()
    plan = _checked_plan(dataset, report)
    records = _checked_records(dataset, plan, units, report)
    _open_shards(dataset, plan, records, report)
    report.planned_units = len(plan) if plan is not None else report.units
    report.planned_inputs = plan.input_count - sum(plan.retried.values()) if plan is not None else 0
    report.quarantined -= sum(plan.retried.values()) if plan is not None else 0
    texts = _checked_texts(dataset, report) if plan is not None else None
    digest = DatasetDigest(plan.settings.fingerprints()) if plan is not None and texts is not None else None
    for record in records:
        problems = list(_unit_problems(dataset, plan, record))
        report.problems += problems
        report.rows += record.rows
        report.quarantined += record.refused
        report.intact_units += not problems
        if digest and texts is not None and not problems:
            for batch in dataset.batches(record):
                digest.add(row.digest() for row in from_record_batch(texts.apply(batch)))
        on_unit()
    report.problems += [*_manifest_problems(dataset, plan, records), *_shard_problems(dataset, report.problems)]
    _check_other_files(dataset, plan, records, report)
    report.problems = list(dict.fromkeys(report.problems))  # a damaged shard is found by each of its units
    report.digest = digest.hexdigest() if digest else ""
    return report


def _checked_plan(dataset: Dataset, report: VerifyReport) -> Plan | None:
    """Return the plan, None if it is damaged: the commit records hold its checksum."""
    try:
        plan = dataset.plan()
        problem = plan_problem(dataset, plan)
    except DatasetError as error:
        problem = str(error)
    if problem:
        report.problems.append(problem)
    return None if problem else plan


def _checked_records(
    dataset: Dataset, plan: Plan | None, units: Sequence[int], report: VerifyReport
) -> list[CommitRecord]:
    records = []
    for unit in units:
        report.units += 1
        try:
            path = dataset.record_path(unit)
            records.append(dataset.record(unit) if plan is not None else CommitRecord.read(path, unit))
        except DatasetError as error:
            if dataset.is_committed(unit):
                report.problems.append(str(error))
            else:
                report.units -= 1  # `emu3 repair` has just set it aside
    return records


def _open_shards(dataset: Dataset, plan: Plan | None, records: Sequence[CommitRecord], report: VerifyReport) -> None:
    """Open the shards; without a readable manifest, find out what they hold."""
    try:
        dataset.shard_reader  # noqa: B018  reads the manifest
    except DatasetError as error:
        report.problems.append(str(error))
        dataset.shard_reader = ShardReader(dataset.shards) if plan is None else recover_shards(dataset, plan, records)


def _checked_texts(dataset: Dataset, report: VerifyReport) -> TextUpdates | None:
    """Return the updates of texts, None if they are damaged."""
    try:
        return dataset.texts
    except DatasetError as error:
        report.problems.append(str(error))
        return None


def _unit_problems(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    if problem := dataset.part_problem(record):
        yield problem
    else:
        yield from _row_problems(dataset, plan, record)
    if problem := dataset.quarantine_problem(record):
        yield problem


def _row_problems(dataset: Dataset, plan: Plan | None, record: CommitRecord) -> Iterator[str]:
    rows, settings = 0, plan.settings if plan is not None else None
    for batch in dataset.batches(record):
        rows += batch.num_rows
        if settings and not batch.schema.equals(columns_of(settings.format, settings.codec.code_dtype)):
            yield f"{record.part}: the columns are not those of {settings.format}, codes {settings.codec.code_dtype}"
        for key in damaged_keys(batch):
            yield f"{record.part}: row {key!r}: codes do not match their checksum"
        codes = batch.column("codes").values.to_numpy()
        if settings and codes.size and int(codes.max()) >= settings.codec.codebook_size:
            yield f"{record.part}: code {codes.max()} is outside the codebook of {settings.codec.codebook_size}"
    if rows != record.rows or (plan and rows + record.refused != len(plan.src_indices(record.unit))):
        yield f"{record.part}: {rows} rows and {record.refused} quarantined do not add up to the planned inputs"
    if (dataset.parts / record.part).is_file() and dataset.is_in_shard(record):
        yield from _copy_problems(dataset, record)


def _copy_problems(dataset: Dataset, record: CommitRecord) -> Iterator[str]:
    """Compare the rows in a shard with the part, which `emu3 seal --keep-parts` or a killed run has left."""
    reader = dataset.shard_reader
    try:
        is_equal = reader.has_rows(record.unit, dataset.batches(record))
    except DatasetError as error:
        yield str(error)
        return
    if not is_equal:
        yield f"{reader.path(record.unit)}: rows of unit {record.unit} differ from {record.part}; run `emu3 repair`"


def _manifest_problems(dataset: Dataset, plan: Plan | None, records: Sequence[CommitRecord]) -> Iterator[str]:
    """Check manifest and canary, and that every listed part has its commit record.

    Units that were added after the manifest was written are listed by the next one.
    """
    committed = {record.unit: record.part_sha256 for record in records}
    try:
        if dataset.canary_path.is_file():
            read_checked_json(dataset.canary_path)
    except DatasetError as error:
        yield str(error)
    try:
        manifest = dataset.manifest() if dataset.manifest_path.is_file() else None
    except DatasetError:
        return  # reported when the shards were opened
    if manifest is None:
        return
    if plan is not None and manifest.plan_sha256 != plan.sha256:
        yield f"{dataset.manifest_path}: belongs to another plan than {dataset.plan_path}; run `emu3 repair`"
    for part in manifest.parts:
        if committed.get(part.unit) == part.sha256:
            continue
        if (now := _record_now(dataset, part.unit)) is None or now.part_sha256 != part.sha256:
            yield f"{dataset.manifest_path}: lists {part.part}, which has no such commit record"


def _record_now(dataset: Dataset, unit: int) -> CommitRecord | None:
    """Return the record of a unit that may have been committed since the records were read."""
    try:
        return dataset.record(unit)
    except DatasetError:
        return None


def _shard_problems(dataset: Dataset, known: Sequence[str]) -> Iterator[str]:
    """Compare all shards and the index with their checksums, also those whose rows are read from parts."""
    reader = dataset.shard_reader
    for shard in reader.shards:
        if (problem := reader.shard_problem(shard)) and not any(shard.shard in other for other in known):
            yield f"{problem}; run `emu3 repair`"
    if reader.index and (problem := index_problem(dataset.index, reader.index)):
        yield problem


def _check_other_files(
    dataset: Dataset, plan: Plan | None, records: Sequence[CommitRecord], report: VerifyReport
) -> None:
    """Sort the files that nothing names: a unit of the plan may be in progress, others are unexpected."""
    named = {record.part for record in records}
    for name in sorted(names_in(dataset.parts)):
        unit, _ = unit_and_suffix(name) or (-1, "")
        if not name.endswith(".arrow") or name in named:
            continue
        if (now := _record_now(dataset, unit)) is not None and now.part == name:
            continue
        if plan is not None and 0 <= unit < len(plan):
            report.unfinished.append(f"{dataset.parts / name}: not committed yet")
        else:
            report.problems.append(f"{dataset.parts / name}: belongs to no unit of the plan")
    listed = {shard.shard for shard in dataset.shard_reader.shards}
    for name in sorted(names_in(dataset.shards)):
        if name.startswith("codes-") and name.endswith(".arrow") and name not in listed:
            report.unfinished.append(f"{dataset.shards / name}: not in the manifest")
