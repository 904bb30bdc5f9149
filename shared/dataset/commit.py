"""The commit of one unit of work. A unit exists for readers only through its commit record.

The order is: write the part under a temporary name, fsync, rename it to a name that carries its hash, fsync the
directory, read the part back and compare, do the same for the quarantine file, then create the commit record if
there is none. The first record wins. In an object store each file is put whole, and the record conditionally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.dataset.arrow_file import dump_rows
from shared.dataset.paths import DatasetPaths
from shared.dataset.plan import Plan
from shared.dataset.quarantine import Refusal, dump_refusals
from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError, NondeterminismError
from shared.storage.atomic import create_file, write_hashed_file
from shared.storage.checked_json import dump_checked_json, field_problem, read_checked_json
from shared.storage.paths import checksum_problem, is_file_name

QUALITY_FIELDS = ("psnr_db", "ssim")  # of a sample that was decoded again


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The result of one unit, in the order of its inputs.

    `numerics` names what can change the last bit of a result (device, dtype, versions); `quality` holds one entry
    per row that was decoded again and compared.
    """

    unit: int
    records: Sequence[CodeRecord] = ()
    refusals: Sequence[Refusal] = ()
    numerics: Mapping[str, Any] = field(default_factory=dict)
    quality: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """The contents of one committed unit. It carries no time and no host, so equal work gives equal bytes.

    `plan_sha256` is that of the plan file that lists the unit, empty in a record that does not name it. `frames`,
    `height` and `width` are the size of a grid in codes.
    """

    unit: int
    rows: int
    captions: int
    height: int
    width: int
    part: str
    part_bytes: int
    part_sha256: str
    quarantined: dict[str, int]
    quarantine: str | None
    quarantine_sha256: str | None
    plan_sha256: str
    numerics: dict[str, Any]
    quality: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 1

    @property
    def codes(self) -> int:
        """The number of codes in all rows."""
        return self.rows * self.frames * self.height * self.width

    @property
    def refused(self) -> int:
        """The number of refused inputs."""
        return sum(self.quarantined.values())

    @classmethod
    def read(cls, path: Path, unit: int) -> CommitRecord:
        """Read the record of a unit. Raises DatasetError if it is missing, damaged, or of another unit."""
        try:
            record = cls(**{"unit": unit, "plan_sha256": "", **read_checked_json(path)})
        except DatasetError as error:
            raise DatasetError(f"{error}; run `emu3 repair`") from error
        except TypeError as error:
            raise DatasetError(f"{path}: expected a commit record: {error}; run `emu3 repair`") from error
        if record.unit != unit:
            raise DatasetError(
                f"{path}: commit record of unit {record.unit!r}, expected unit {unit}; run `emu3 repair`"
            )
        if problem := _field_problem(record):
            raise DatasetError(f"{path}: expected a commit record: {problem}; run `emu3 repair`")
        return record

    def to_bytes(self) -> bytes:
        return dump_checked_json(asdict(self))


def _field_problem(record: CommitRecord) -> str | None:
    """Return what is wrong with the fields of a record, None if nothing is."""
    if problem := field_problem(record):
        return problem
    for name in ("rows", "captions", "frames", "height", "width", "part_bytes"):
        if getattr(record, name) < 0:
            return f"{name}: expected a count, got {getattr(record, name)}"
    for file in filter(None, (record.part, record.quarantine)):
        if not file.startswith(f"part-{record.unit:06d}.") or not is_file_name(file):
            return f"expected files of unit {record.unit}, got {file!r:.40}"
    for sample in record.quality:
        if not isinstance(sample.get("key"), str) or not all(_is_number(sample.get(name)) for name in QUALITY_FIELDS):
            return f"quality: expected `key`, {', '.join(QUALITY_FIELDS)}, got {sample!r:.80}"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def commit_unit(paths: DatasetPaths, plan: Plan, result: UnitResult) -> CommitRecord:
    """Commit one unit.

    Raises NondeterminismError if another attempt committed different bytes for it, and DatasetError if the plan has
    been replaced since the job started.
    """
    plan.check_in_place(result.unit)
    part, part_sha256, part_bytes = _write_part(paths, plan, result)
    quarantine: tuple[str | None, str | None] = (None, None)
    if result.refusals:
        refusals = dump_refusals(result.refusals)
        quarantine = write_hashed_file(paths.quarantine, f"part-{result.unit:06d}", refusals, "jsonl")
    # All rows share one size, except sequences that failed.
    frames, height, width = next((row.codes_THW.shape for row in result.records if row.has_grid), (0, 0, 0))
    record = CommitRecord(
        unit=result.unit,
        rows=len(result.records),
        captions=sum(record.text is not None for record in result.records),
        height=height,
        width=width,
        part=part,
        part_bytes=part_bytes,
        part_sha256=part_sha256,
        quarantined=dict(Counter(refusal.reason for refusal in result.refusals)),
        quarantine=quarantine[0],
        quarantine_sha256=quarantine[1],
        plan_sha256=plan.sha256_of(result.unit),
        numerics=dict(result.numerics),
        quality=[dict(sample) for sample in result.quality],
        frames=frames,
    )
    plan.check_in_place(result.unit)  # again: another job may have taken over the folder in the meantime
    if not create_file(paths.record_path(result.unit), record.to_bytes()):
        _check_equal(paths, record)
    paths.partial_path(result.unit).unlink(missing_ok=True)
    return record


def _write_part(paths: DatasetPaths, plan: Plan, result: UnitResult) -> tuple[str, str, int]:
    """Return the name, SHA-256 and size in bytes of the part."""
    content = dump_rows(result.records, plan.settings)
    name, sha256 = write_hashed_file(paths.parts, f"part-{result.unit:06d}", content, "arrow")
    if problem := checksum_problem(paths.parts / name, sha256):
        raise DatasetError(f"{problem}: the disk returned other bytes than were written; check the disk")
    return name, sha256, len(content)


def _check_equal(paths: DatasetPaths, record: CommitRecord) -> None:
    """Compare with the record that another attempt created first; remove this attempt's files if they differ."""
    first = CommitRecord.read(paths.record_path(record.unit), record.unit)
    if first.plan_sha256 not in ("", record.plan_sha256):
        raise DatasetError(
            f"{paths.record_path(record.unit)}: belongs to another plan ({first.plan_sha256[:12]}, expected"
            f" {record.plan_sha256[:12]}); run `emu3 repair`"
        )
    if (first.part_sha256, first.quarantine_sha256) == (record.part_sha256, record.quarantine_sha256):
        return
    if record.part != first.part:
        (paths.parts / record.part).unlink(missing_ok=True)
    if record.quarantine and record.quarantine != first.quarantine:
        (paths.quarantine / record.quarantine).unlink(missing_ok=True)
    raise NondeterminismError(
        f"{paths.record_path(record.unit)}: another attempt committed part {first.part}, this one computed"
        f" {record.part}; the first is kept; check the device and the inputs"
    )
