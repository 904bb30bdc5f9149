"""A dataset on disk: where its files are, what was committed, and how rows are read and written.

A unit exists for readers only through its commit record. A unit is committed in this order: part under a
temporary name, fsync, renamed to a name that carries its hash, directory fsynced, read back and compared, record
created if absent. The first record wins. In an object store a part is put whole, and the record put conditionally.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.plan import Plan
from shared.dataset.rows import SCHEMAS, CodeRecord, damaged_keys, from_record_batch, to_record_batches
from shared.dataset.shards import Shard, ShardReader
from shared.errors import DatasetError, NondeterminismError
from shared.storage.atomic import create_file, write_file
from shared.storage.checked_json import dump_sealed, load_sealed
from shared.storage.digests import canonical_json
from shared.storage.paths import as_path, is_local, make_directory, names_in, read_buffer, sha256_of

_HASH_DIGITS = 12
METADATA_KEY = b"emu3"


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
    frames: int = 1

    @property
    def codes(self) -> int:
        """In all rows; `frames`, `height` and `width` are those of a grid."""
        return self.rows * self.frames * self.height * self.width


class Dataset:
    """Paths and contents of one dataset, on disk or by its URL."""

    def __init__(self, root: str | Path):
        self.root = as_path(root)
        self.parts = self.root / "parts"
        self.shards = self.root / "shards"
        self.quarantine = self.root / "quarantine"
        self.damaged = self.root / "damaged"
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

    def partial_path(self, unit: int) -> Path:
        """Where rows of an interrupted unit are kept."""
        return self.root / "partial" / f"part-{unit:06d}.arrow"

    def journal_path(self, unit: int) -> Path:
        """Where the language stage keeps what it wrote of a unit so far."""
        return self.root / "partial" / f"part-{unit:06d}.journal"

    def is_committed(self, unit: int) -> bool:
        return self.record_path(unit).is_file()

    def committed_units(self) -> list[int]:
        """Units with a commit record, in order."""
        names = names_in(self.parts)
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

    @cached_property
    def sealed(self) -> ShardReader:
        """The shards that the manifest lists."""
        listed = self.manifest().get("shards", []) if self.manifest_path.is_file() else []
        return ShardReader(self.shards, [Shard.from_dict(shard) for shard in listed])

    def place(self, record: CommitRecord) -> Path:
        """The file that holds the rows of a unit: its part, or after `emu3 seal` a shard."""
        path = self.parts / record.part
        return self.sealed.path(record.unit) if not path.is_file() and record.unit in self.sealed else path

    def batches(self, record: CommitRecord) -> Iterator[pa.RecordBatch]:
        """Arrow batches of a committed unit, memory-mapped. Raises DatasetError if they cannot be read."""
        path = self.parts / record.part
        if not path.is_file() and record.unit in self.sealed:
            yield from self.sealed.batches(record.unit)
            return
        try:
            reader = pa.ipc.open_file(read_buffer(path))
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
        if problem := self.part_problem(record):
            raise DatasetError(f"{problem}; run `emu3 verify`")

    def part_problem(self, record: CommitRecord) -> str | None:
        """What is wrong with the file that holds a unit's rows, if anything; nothing is interpreted before."""
        path = self.parts / record.part
        found = sha256_of(path)
        if found == record.part_sha256:
            return None
        if found == "missing" and record.unit in self.sealed:
            problem = self.sealed.check(record.unit)
            return problem and f"{problem}; {self.damage(record)}"
        if found == "missing":
            return f"{path}: missing"
        return f"{path}: sha256 {found[:12]} expected {record.part_sha256[:12]}; {self.damage(record)}"

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
            make_directory(directory)
        part, sha256, size = self._write_part(unit, records, plan)
        lines = "".join(canonical_json(asdict(refusal)) + "\n" for refusal in refusals).encode()
        quarantine = f"part-{unit:06d}.{_sha256(lines)[:_HASH_DIGITS]}.jsonl" if refusals else None
        if quarantine:
            write_file(self.quarantine / quarantine, lines)
        reasons = [refusal.reason for refusal in refusals]
        frames, height, width = next((row.codes_THW.shape for row in records if row.has_grid), (0, 0, 0))
        record = CommitRecord(
            unit=unit,
            rows=len(records),
            captions=sum(record.text is not None for record in records),
            height=height,
            width=width,
            part=part,
            part_bytes=size,
            part_sha256=sha256,
            quarantined={reason: reasons.count(reason) for reason in sorted(set(reasons))},
            quarantine=quarantine,
            quarantine_sha256=_sha256(lines) if quarantine else None,
            plan_sha256=plan.sha256_of(unit),
            numerics=numerics,
            quality=quality,
            frames=frames,
        )
        if not create_file(self.record_path(unit), dump_sealed(asdict(record))):
            self._check_same(record)
        self.partial_path(unit).unlink(missing_ok=True)
        return record

    def _write_part(self, unit: int, records: Sequence[CodeRecord], plan: Plan) -> tuple[str, str, int]:
        content = part_bytes(records, plan.settings.format, plan.settings.fingerprints())
        sha256 = _sha256(content)
        path = self.parts / f"part-{unit:06d}.{sha256[:_HASH_DIGITS]}.arrow"
        write_file(path, content)
        stored = read_buffer(path)
        rows = pa.ipc.open_file(stored).read_all().num_rows
        if rows != len(records) or _sha256(stored) != sha256:
            raise DatasetError(f"{path}: wrote {len(records)} rows, read back {rows} or other bytes; check the disk")
        return path.name, sha256, len(content)

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

    def write_manifest(self, plan: Plan, shards: Sequence[Shard] | None = None) -> None:
        """Lists what exists, once every unit of the plan is committed; shards stay listed unless others are given."""
        records = list(self.commit_records())
        shards = self.sealed.shards if shards is None else shards
        manifest = {
            "format": plan.settings.format,
            "plan_sha256": plan.sha256,
            "settings": plan.settings.to_json(),
            "rows": sum(record.rows for record in records),
            "quarantined": sum(sum(record.quarantined.values()) for record in records) - sum(plan.retried.values()),
            "parts": [
                {"unit": r.unit, "part": r.part, "rows": r.rows, "bytes": r.part_bytes, "sha256": r.part_sha256}
                for r in records
            ],
            **({"shards": [shard.to_dict() for shard in shards]} if shards else {}),
        }
        data = dump_sealed(manifest)
        if not self.manifest_path.is_file() or self.manifest_path.read_bytes() != data:
            write_file(self.manifest_path, data)
        self.__dict__.pop("sealed", None)

    def manifest(self) -> dict[str, Any]:
        return load_sealed(self.manifest_path.read_bytes(), str(self.manifest_path))

    def add_event(self, **values: Any) -> None:
        """Appends a line to the log of progress, which is never read for correctness; on disk only."""
        if not is_local(self.root):
            return
        with self.events_path.open("a", encoding="utf-8") as file:
            file.write(canonical_json(values) + "\n")

    def log(self, unit: int, rows: int, elapsed_s: float) -> None:
        """Notes a committed unit in the log of progress."""
        self.add_event(event="unit", unit=unit, rows=rows, elapsed_s=round(elapsed_s, 3), time=time.time())

    def events(self) -> Iterator[dict[str, Any]]:
        """What the log of progress says, but for lines that a kill cut short."""
        if self.events_path.is_file():
            for line in self.events_path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event


def part_bytes(records: Sequence[CodeRecord], row_format: str, metadata: Mapping[str, Any]) -> pa.Buffer:
    """Return rows as an Arrow file; equal rows give equal bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, row_schema(row_format, metadata)) as writer:
        for batch in to_record_batches(records):
            writer.write_batch(batch)
    return sink.getvalue()


def row_schema(row_format: str, metadata: Mapping[str, Any]) -> pa.Schema:
    """Return the schema of a row format, with `metadata` as its schema metadata."""
    return SCHEMAS[row_format].with_metadata({METADATA_KEY: canonical_json(metadata).encode()})


def _sha256(data: bytes | pa.Buffer) -> str:
    return hashlib.sha256(data).hexdigest()
