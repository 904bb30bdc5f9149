"""A dataset, on disk or in an object store: its plan, its committed units and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile
from shared.dataset.commit import CommitRecord, UnitResult, commit_unit
from shared.dataset.events import EventLog
from shared.dataset.manifest import Manifest
from shared.dataset.paths import DatasetPaths
from shared.dataset.plan import Plan
from shared.dataset.quarantine import Refusal, load_refusals
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.dataset.shards import Shard, ShardReader
from shared.errors import DatasetError
from shared.storage.atomic import write_file
from shared.storage.paths import MISSING, names_in, sha256_of

_NAMED_KEYS = 8  # of damaged rows, in a message


class Dataset(DatasetPaths):
    """One dataset. Nothing is read on construction."""

    def __init__(self, root: str | Path):
        super().__init__(root)
        self.events = EventLog(self.events_path)
        self._shard_reader: ShardReader | None = None

    @classmethod
    def open(cls, root: str | Path) -> Dataset:
        """Open an existing dataset. Raises DatasetError if there is none at `root`."""
        dataset = cls(root)
        if not dataset.plan_path.is_file():
            raise DatasetError(
                f"{root}: expected a dataset (plan.arrow), found none; `emu3 encode` and `emu3 generate` write datasets"
            )
        return dataset

    def plan(self) -> Plan:
        return Plan(self.plan_path)

    def is_committed(self, unit: int) -> bool:
        return self.record_path(unit).is_file()

    def committed_units(self) -> list[int]:
        """Return the units with a commit record, in order."""
        names = names_in(self.parts)
        return sorted(int(name[5:-5]) for name in names if name.startswith("part-") and name.endswith(".json"))

    def missing_units(self, plan: Plan) -> list[int]:
        """Return the units of the plan without a commit record, in order."""
        committed = set(self.committed_units())
        return [unit for unit in range(len(plan)) if unit not in committed]

    def commit(self, result: UnitResult, plan: Plan) -> CommitRecord:
        """Commit one unit. Raises NondeterminismError if another attempt committed different bytes for it."""
        return commit_unit(self, plan, result)

    def record(self, unit: int) -> CommitRecord:
        """Return the commit record of a unit. Raises DatasetError if it is missing or damaged."""
        return CommitRecord.read(self.record_path(unit))

    def commit_records(self) -> Iterator[CommitRecord]:
        return (self.record(unit) for unit in self.committed_units())

    def refusals(self, record: CommitRecord) -> list[Refusal]:
        return load_refusals(self.quarantine / record.quarantine) if record.quarantine else []

    @property
    def shard_reader(self) -> ShardReader:
        """The shards that the manifest lists."""
        if self._shard_reader is None:
            self._shard_reader = ShardReader(self.shards, self._listed_shards())
        return self._shard_reader

    def rows_path(self, record: CommitRecord) -> Path:
        """Return the file that holds the rows of a unit: its part or, after `emu3 seal`, a shard."""
        return self.shard_reader.path(record.unit) if self._is_in_shard(record) else self.parts / record.part

    def batches(self, record: CommitRecord) -> Iterator[pa.RecordBatch]:
        """Yield the memory-mapped record batches of a unit. Raises DatasetError if they cannot be read."""
        if self._is_in_shard(record):
            yield from self.shard_reader.batches(record.unit)
        else:
            yield from ArrowFile(self.parts / record.part).batches()

    def batch(self, record: CommitRecord, index: int) -> pa.RecordBatch:
        """Return record batch `index` of a unit. Raises DatasetError if it cannot be read."""
        if self._is_in_shard(record):
            return self.shard_reader.batch(record.unit, index)
        return ArrowFile(self.parts / record.part).batch(index)

    def rows(self, record: CommitRecord) -> Iterator[CodeRecord]:
        """Yield the rows of a unit. Raises DatasetError, before the first, if the file is damaged."""
        self.check_part(record)
        for batch in self.batches(record):
            yield from from_record_batch(batch)

    def check_part(self, record: CommitRecord) -> None:
        """Raise DatasetError, naming the damaged rows, if a unit's file does not match its checksum."""
        if problem := self.part_problem(record):
            raise DatasetError(f"{problem}; run `emu3 verify`")

    def part_problem(self, record: CommitRecord) -> str | None:
        """Return how a unit's file differs from its checksum, None if it does not; nothing is parsed before."""
        path = self.parts / record.part
        found = sha256_of(path)
        if found == record.part_sha256:
            return None
        if found == MISSING and record.unit in self.shard_reader:
            problem = self.shard_reader.problem(record.unit)
            return problem and f"{problem}; {self._describe_damage(record)}"
        if found == MISSING:
            return f"{path}: missing"
        return f"{path}: sha256 {found[:12]} expected {record.part_sha256[:12]}; {self._describe_damage(record)}"

    def quarantine_problem(self, record: CommitRecord) -> str | None:
        """Return how a unit's quarantine file differs from its checksum, None if it does not or there is none."""
        if record.quarantine is None:
            return None
        path = self.quarantine / record.quarantine
        if (found := sha256_of(path)) == record.quarantine_sha256:
            return None
        return f"{path}: sha256 {found[:12]} expected {str(record.quarantine_sha256)[:12]}"

    def _is_in_shard(self, record: CommitRecord) -> bool:
        """Whether the rows are read from a shard: the part, while it exists, comes first."""
        return not (self.parts / record.part).is_file() and record.unit in self.shard_reader

    def _describe_damage(self, record: CommitRecord) -> str:
        try:
            keys = [key for batch in self.batches(record) for key in damaged_keys(batch)]
        except (DatasetError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"its rows cannot be read: {error}"
        if not keys:
            return "all codes match their checksums, the damage is elsewhere in the file"
        return f"damaged rows: {', '.join(map(repr, keys[:_NAMED_KEYS]))}{' …' if len(keys) > _NAMED_KEYS else ''}"

    def manifest(self) -> Manifest:
        """Read the manifest. Raises DatasetError if it is damaged, OSError if there is none."""
        return Manifest.from_bytes(self.manifest_path.read_bytes(), str(self.manifest_path))

    def write_manifest(self, plan: Plan, shards: Sequence[Shard] | None = None) -> None:
        """List all parts, once every unit is committed; the shards stay as listed unless others are given."""
        shards = self._listed_shards() if shards is None else shards
        data = Manifest.build(plan, self.commit_records(), shards).to_bytes()
        if not self.manifest_path.is_file() or self.manifest_path.read_bytes() != data:
            write_file(self.manifest_path, data)
        self._shard_reader = ShardReader(self.shards, shards)

    def _listed_shards(self) -> Sequence[Shard]:
        return self.manifest().shards if self.manifest_path.is_file() else ()
