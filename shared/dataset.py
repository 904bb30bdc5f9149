"""A dataset on disk: where its files are, what was committed, and how rows are read and written.

A unit exists for readers only through its commit record. A unit is committed in this order: part under a
temporary name, fsync, read back and hashed, renamed to a name that carries its hash, directory fsynced, record
created if absent. The first record wins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.atomic import create_file, sync_directory, sync_file, temporary_beside, write_file
from shared.errors import DatasetError, NondeterminismError
from shared.fingerprint import canonical_json
from shared.plan import Plan
from shared.records import CODES_FORMAT, SCHEMAS, CodeRecord, damaged_keys, from_record_batch, to_record_batches
from shared.sealed import dump_sealed, load_sealed

_HASH_DIGITS = 12
_METADATA_KEY = b"emu3"
FINGERPRINTS = ("codec", "preprocessing", "generation")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An input in quarantine: what it is and why it was refused."""

    key: str
    src_index: int
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """What one committed unit holds. Carries no time and no host: equal work gives equal bytes."""

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


class Dataset:
    """Paths and contents of one dataset directory. Opening it reads the plan and lists the records."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.parts = self.root / "parts"
        self.quarantine = self.root / "quarantine"
        self.plan_path = self.root / "plan.arrow"
        self.manifest_path = self.root / "manifest.json"
        self.canary_path = self.root / "canary.json"
        self.events_path = self.root / "events.jsonl"

    @classmethod
    def open(cls, root: str | Path) -> Dataset:
        """Raises DatasetError if there is no dataset."""
        dataset = cls(root)
        if not dataset.plan_path.is_file():
            raise DatasetError(
                f"{root}: expected a dataset (plan.arrow); found none; `emu3 encode` and `emu3 generate` make one"
            )
        return dataset

    def plan(self) -> Plan:
        return Plan(self.plan_path)

    def record_path(self, unit: int) -> Path:
        return self.parts / f"part-{unit:06d}.json"

    def claim_path(self, unit: int) -> Path:
        return self.root / "claims" / f"part-{unit:06d}"

    def is_committed(self, unit: int) -> bool:
        return self.record_path(unit).is_file()

    def committed_units(self) -> list[int]:
        """Units with a commit record, in order."""
        if not self.parts.is_dir():
            return []
        names = (entry.name for entry in os.scandir(self.parts))
        return sorted(int(name[5:-5]) for name in names if name.startswith("part-") and name.endswith(".json"))

    def missing_units(self, plan: Plan) -> list[int]:
        """Units of the plan without a commit record, in order."""
        committed = set(self.committed_units())
        return [unit for unit in range(len(plan)) if unit not in committed]

    def record(self, unit: int) -> CommitRecord:
        """Raises DatasetError if the record is damaged."""
        path = self.record_path(unit)
        try:
            return CommitRecord(**load_sealed(path.read_bytes(), str(path)))
        except (OSError, TypeError) as error:
            raise DatasetError(f"{path}: expected a commit record: {error}") from error

    def commit_records(self) -> Iterator[CommitRecord]:
        return (self.record(unit) for unit in self.committed_units())

    def batches(self, record: CommitRecord) -> Iterator[pa.RecordBatch]:
        """Arrow batches of a committed part, memory-mapped. Raises DatasetError if it cannot be read."""
        path = self.parts / record.part
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{path}: cannot be read: {error}; run `emu3 verify`") from error

    def rows(self, record: CommitRecord) -> Iterator[CodeRecord]:
        """Rows of a committed part. Raises DatasetError, before the first, if the part is damaged."""
        self.check_part(record)
        for batch in self.batches(record):
            yield from from_record_batch(batch)

    def check_part(self, record: CommitRecord) -> None:
        """Raises DatasetError, naming the damaged rows, if a part does not match its checksum."""
        if (found := sha256_of(self.parts / record.part)) != record.part_sha256:
            raise DatasetError(
                f"{self.parts / record.part}: sha256 {found[:12]} expected {record.part_sha256[:12]};"
                f" {self.damage(record)}; run `emu3 verify`"
            )

    def damage(self, record: CommitRecord) -> str:
        """Which rows of a part that does not match its checksum are damaged."""
        try:
            keys = [key for batch in self.batches(record) for key in damaged_keys(batch)]
        except (DatasetError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"its rows cannot be read: {error}"
        if not keys:
            return "all codes match their checksums, the damage is elsewhere in the file"
        return f"damaged rows: {', '.join(repr(key) for key in keys[:8])}{' …' if len(keys) > 8 else ''}"

    def refusals(self, record: CommitRecord) -> list[Refusal]:
        if record.quarantine is None:
            return []
        lines = (self.quarantine / record.quarantine).read_text(encoding="utf-8").split("\n")
        return [Refusal(**json.loads(line)) for line in lines if line]

    def fingerprints(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that decide the codes; they stand in every part and in the dataset's digest."""
        return {"format": format_of(settings), **{name: settings[name] for name in FINGERPRINTS if name in settings}}

    def commit(
        self,
        unit: int,
        records: Sequence[CodeRecord],
        refusals: Sequence[Refusal],
        plan: Plan,
        numerics: dict[str, Any],
        quality: list[dict[str, Any]],
    ) -> CommitRecord:
        """Commits one unit. Raises NondeterminismError if another attempt committed other bytes for it."""
        for directory in (self.parts, self.quarantine) if refusals else (self.parts,):
            directory.mkdir(exist_ok=True)
        part, sha256, size = self._write_part(unit, records, plan)
        lines = "".join(canonical_json(asdict(refusal)) + "\n" for refusal in refusals).encode()
        quarantine = f"part-{unit:06d}.{_sha256(lines)[:_HASH_DIGITS]}.jsonl" if refusals else None
        if quarantine:
            write_file(self.quarantine / quarantine, lines)
        reasons = [refusal.reason for refusal in refusals]
        shape = next((record.codes_THW.shape for record in records if record.has_grid), (0, 0, 0))
        record = CommitRecord(
            unit=unit,
            rows=len(records),
            captions=sum(record.text is not None for record in records),
            height=shape[1],
            width=shape[2],
            part=part,
            part_bytes=size,
            part_sha256=sha256,
            quarantined={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            quarantine=quarantine,
            quarantine_sha256=_sha256(lines) if quarantine else None,
            plan_sha256=plan.sha256,
            numerics=numerics,
            quality=quality,
        )
        if not create_file(self.record_path(unit), dump_sealed(asdict(record))):
            self._check_same(record)
        self.partial_path(unit).unlink(missing_ok=True)
        return record

    def partial_path(self, unit: int) -> Path:
        return self.root / "partial" / f"part-{unit:06d}.arrow"

    def journal_path(self, unit: int) -> Path:
        """Where the language stage keeps what it wrote of a unit so far."""
        return self.root / "partial" / f"part-{unit:06d}.journal"

    def save_partial(
        self, unit: int, records: Sequence[CodeRecord], quality: list[dict[str, Any]], plan: Plan, numerics: Any
    ) -> None:
        """Keeps the rows of an interrupted unit for the job that resumes it."""
        path = self.partial_path(unit)
        path.parent.mkdir(exist_ok=True)
        sink = pa.BufferOutputStream()
        belongs = {"plan_sha256": plan.sha256, "numerics": numerics, "quality": quality}
        _write_rows(sink, records, plan.settings, belongs)
        content = sink.getvalue().to_pybytes()
        write_file(path, hashlib.sha256(content).digest() + content)

    def load_partial(self, unit: int, plan: Plan, numerics: Any) -> tuple[list[CodeRecord], list[dict[str, Any]]]:
        """Rows and quality kept by `save_partial`; nothing if there are none or they are damaged or foreign."""
        path = self.partial_path(unit)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return [], []
        reader = pa.ipc.open_file(content[32:])
        belongs = json.loads(reader.schema.metadata[_METADATA_KEY])
        if (belongs["plan_sha256"], belongs["numerics"]) != (plan.sha256, numerics):
            return [], []
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        return [row for batch in batches for row in from_record_batch(batch)], belongs["quality"]

    def _write_part(self, unit: int, records: Sequence[CodeRecord], plan: Plan) -> tuple[str, str, int]:
        temporary = temporary_beside(self.parts / f"part-{unit:06d}.arrow")
        try:
            with pa.OSFile(str(temporary), "wb") as sink:
                _write_rows(sink, records, plan.settings, self.fingerprints(plan.settings))
            sync_file(temporary)
            content = temporary.read_bytes()
            rows = sum(batch.num_rows for batch in pa.ipc.open_file(content).read_all().to_batches())
            if rows != len(records):
                raise DatasetError(f"{temporary}: wrote {len(records)} rows, read back {rows}")
            sha256 = _sha256(content)
            name = f"part-{unit:06d}.{sha256[:_HASH_DIGITS]}.arrow"
            os.replace(temporary, self.parts / name)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(self.parts)
        return name, sha256, len(content)

    def _check_same(self, record: CommitRecord) -> None:
        winner = self.record(record.unit)
        if (winner.part_sha256, winner.quarantine_sha256) != (record.part_sha256, record.quarantine_sha256):
            if record.part != winner.part:
                (self.parts / record.part).unlink(missing_ok=True)
            if record.quarantine and record.quarantine != winner.quarantine:
                (self.quarantine / record.quarantine).unlink(missing_ok=True)
            raise NondeterminismError(
                f"{self.record_path(record.unit)}: another attempt committed part {winner.part},"
                f" this one computed {record.part}; the first stays; check device and inputs"
            )

    def write_manifest(self, plan: Plan) -> None:
        """Lists what exists, once every unit of the plan is committed."""
        records = list(self.commit_records())
        manifest = {
            "format": format_of(plan.settings),
            "plan_sha256": plan.sha256,
            "settings": plan.settings,
            "rows": sum(record.rows for record in records),
            "quarantined": sum(sum(record.quarantined.values()) for record in records),
            "parts": [
                {"unit": r.unit, "part": r.part, "rows": r.rows, "bytes": r.part_bytes, "sha256": r.part_sha256}
                for r in records
            ],
        }
        data = dump_sealed(manifest)
        if not self.manifest_path.is_file() or self.manifest_path.read_bytes() != data:
            write_file(self.manifest_path, data)

    def manifest(self) -> dict[str, Any]:
        return load_sealed(self.manifest_path.read_bytes(), str(self.manifest_path))

    def sweep(self) -> None:
        """Removes what killed jobs left: temporary files, claims, parts and quarantine files without a record.

        Only to be called while no job runs on this dataset.
        """
        for directory in (self.root, self.parts, self.quarantine):
            for path in directory.glob("*.tmp") if directory.is_dir() else ():
                path.unlink(missing_ok=True)
        for path in [*self.parts.glob("part-*.arrow"), *self.quarantine.glob("part-*.jsonl")]:
            if not self.is_committed(int(path.name.split(".")[0].removeprefix("part-"))):
                path.unlink(missing_ok=True)
        for path in self.claim_path(0).parent.glob("part-*"):
            path.unlink(missing_ok=True)
        for path in self.partial_path(0).parent.glob("part-*"):
            if path.name.endswith(".tmp") or self.is_committed(int(path.name.split(".")[0].removeprefix("part-"))):
                path.unlink(missing_ok=True)
        for directory in (self.claim_path(0).parent, self.partial_path(0).parent):
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()

    def add_event(self, **values: Any) -> None:
        """Appends a line to the log of progress, which is never read for correctness."""
        with self.events_path.open("a", encoding="utf-8") as file:
            file.write(canonical_json(values) + "\n")


def format_of(settings: Mapping[str, Any]) -> str:
    """Row format of a dataset with these settings."""
    return str(settings.get("format", CODES_FORMAT))


def _write_rows(
    sink: Any, records: Sequence[CodeRecord], settings: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    schema = SCHEMAS[format_of(settings)].with_metadata({_METADATA_KEY: canonical_json(metadata).encode()})
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in to_record_batches(records):
            writer.write_batch(batch)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex digest of a file, or `missing`."""
    return _sha256(path.read_bytes()) if path.is_file() else "missing"
