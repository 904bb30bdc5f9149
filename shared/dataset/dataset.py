"""A dataset, on disk or in an object store: its plan, its committed units and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile, open_rows
from shared.dataset.commit import CommitRecord, UnitResult, commit_unit
from shared.dataset.events import EventLog
from shared.dataset.manifest import Manifest
from shared.dataset.paths import DatasetPaths, unit_and_suffix
from shared.dataset.plan import Plan
from shared.dataset.quarantine import Refusal, load_refusals
from shared.dataset.rows import CodeRecord, damaged_keys, from_record_batch
from shared.dataset.shards import IndexFile, Shard, ShardReader
from shared.dataset.texts import TextUpdates
from shared.errors import DatasetError, MissingDatasetError
from shared.storage.atomic import write_file
from shared.storage.paths import MISSING, checksum_problem, file_identity, is_local, names_in, sha256_of

_NAMED_KEYS = 8  # of damaged rows, in a message


class Dataset(DatasetPaths):
    """One dataset. Nothing is read on construction."""

    def __init__(self, root: str | Path):
        super().__init__(root)
        self.events = EventLog(self.events_path)
        self._plan: Plan | None = None
        self._checked_units: set[int] = set()
        self._shard_reader: ShardReader | None = None
        self._manifest_identity: tuple[object, ...] | None = None

    @classmethod
    def open(cls, root: str | Path) -> Dataset:
        """Open an existing dataset.

        Raises MissingDatasetError if there is none at `root`, and DatasetError if there is one without its plan.
        """
        dataset = cls(root)
        if not dataset.plan_path.is_file():
            if names_in(dataset.parts):
                raise DatasetError(f"{dataset.plan_path}: missing, but there are parts; restore it from a copy")
            raise MissingDatasetError(
                f"{root}: expected a dataset (plan.arrow), found none; `emu3 encode` and `emu3 generate` write datasets"
            )
        return dataset

    def plan(self) -> Plan:
        """Read the plan as it is now. Raises DatasetError if it is damaged."""
        self._plan = Plan(self.plan_path)
        return self._plan

    def is_committed(self, unit: int) -> bool:
        return self.record_path(unit).is_file()

    def committed_units(self) -> list[int]:
        """Return the units with a commit record, in order."""
        return sorted(unit for unit, suffix in self._files_in_parts() if suffix == ".json")

    def units_with_parts(self) -> set[int]:
        """Return the units that have a part of their own, committed or not."""
        return {unit for unit, suffix in self._files_in_parts() if suffix.endswith(".arrow")}

    def sealed_units(self) -> set[int]:
        """Return the committed units whose rows are in shards and have no other part of their own."""
        committed, others = set(), set()
        for unit, suffix in self._files_in_parts():
            sealed = self.shard_reader.part(unit)
            if suffix == ".json":
                committed.add(unit)
            elif sealed is None or sealed.part != f"part-{unit:06d}{suffix}":
                others.add(unit)
        return committed & self.shard_reader.units - others

    def _files_in_parts(self) -> Iterator[tuple[int, str]]:
        return filter(None, map(unit_and_suffix, names_in(self.parts)))

    def missing_units(self, plan: Plan) -> list[int]:
        """Return the units of the plan without a commit record, in order."""
        committed = set(self.committed_units())
        return [unit for unit in range(len(plan)) if unit not in committed]

    def complete_records(self, plan: Plan) -> list[CommitRecord]:
        """Return the records of all units of a plan. Raises DatasetError if a unit is missing or its record damaged."""
        records = [record for record in self.commit_records() if record.unit < len(plan)]
        if missing := len(plan) - len(records):
            raise DatasetError(
                f"{self.root}: {missing} of {len(plan)} units are missing; finish the job that writes the dataset"
            )
        return records

    def commit(self, result: UnitResult, plan: Plan) -> CommitRecord:
        """Commit one unit. Raises NondeterminismError if another attempt committed different bytes for it."""
        return commit_unit(self, plan, result)

    def record(self, unit: int) -> CommitRecord:
        """Return the commit record of a unit.

        Raises DatasetError if it is missing or damaged, or belongs to another unit or another plan.
        """
        record = CommitRecord.read(self.record_path(unit), unit)
        if self._plan is None or unit >= len(self._plan):  # the plan may have grown
            self.plan()
        assert self._plan is not None, "plan() sets it"
        if unit >= len(self._plan):
            raise DatasetError(
                f"{self.record_path(unit)}: {self.plan_path} and its additions list {len(self._plan)} units only;"
                " restore the missing addition, or run `emu3 repair`"
            )
        expected = self._plan.sha256_of(unit)
        if record.plan_sha256 not in ("", expected):
            raise DatasetError(
                f"{self.record_path(unit)}: belongs to the plan with sha256 {record.plan_sha256[:12]}, but"
                f" {self.plan_path} has {expected[:12]}; restore the plan, or run `emu3 repair`"
            )
        return record

    def check(self) -> None:
        """Raise DatasetError if a commit record or the manifest is damaged or belongs to another dataset.

        A job calls this before it starts. In an object store, records are checked only when they are read. A second
        call checks the records that are new.
        """
        self.shard_reader  # noqa: B018  reads the manifest
        for unit in self.committed_units() if is_local(self.root) else ():
            if unit not in self._checked_units:
                self.record(unit)
                self._checked_units.add(unit)

    def commit_records(self) -> Iterator[CommitRecord]:
        return (self.record(unit) for unit in self.committed_units())

    def refusals(self, record: CommitRecord) -> list[Refusal]:
        return load_refusals(self.quarantine / record.quarantine) if record.quarantine else []

    @property
    def shard_reader(self) -> ShardReader:
        """The shards that the manifest lists.

        Raises DatasetError if the manifest is damaged, or missing although rows are in shards.
        """
        if self._shard_reader is None:
            self.reopen_shards()
        assert self._shard_reader is not None, "it was just set"
        return self._shard_reader

    @shard_reader.setter
    def shard_reader(self, reader: ShardReader) -> None:
        self._shard_reader, self._manifest_identity = reader, file_identity(self.manifest_path)

    def reopen_shards(self) -> bool:
        """Read the manifest again if it was replaced, as by `emu3 seal`; return whether it was.

        A reader that finds a file missing calls this and tries again: the rows are in another file by now.
        """
        identity = file_identity(self.manifest_path)  # before it is read: it may be replaced meanwhile
        if identity == self._manifest_identity:
            return False
        self._shard_reader, self._manifest_identity = self._open_shards(), identity
        return True

    def _open_shards(self) -> ShardReader:
        if self.manifest_path.is_file():
            return self.manifest().reader(self.shards)
        has_shards = any(name.startswith("codes-") for name in names_in(self.shards))
        # A killed first `emu3 seal` leaves shards without a manifest too, but then every unit still has its part.
        if has_shards and (sealed := set(self.committed_units()) - self.units_with_parts()):
            raise DatasetError(
                f"{self.manifest_path}: missing, and {len(sealed)} units have no part: their rows are in the shards"
                " that it listed; run `emu3 repair`"
            )
        return ShardReader(self.shards)

    @cached_property
    def texts(self) -> TextUpdates:
        """The updates of texts, which `rows` applies. Raises DatasetError if they are damaged."""
        return TextUpdates(self.text_updates, self.plan)

    def rows_path(self, record: CommitRecord) -> Path:
        """Return the file that holds the rows of a unit: its part or, after `emu3 seal`, a shard."""
        part = self.parts / record.part
        return part if part.is_file() or not self.is_in_shard(record) else self.shard_reader.path(record.unit)

    def batches(self, record: CommitRecord) -> Iterator[pa.RecordBatch]:
        """Yield the memory-mapped record batches of a unit, without the updates of `texts`.

        Raises DatasetError if they cannot be read.
        """
        file, indices = self._open_unit(record)
        yield from map(file.batch, indices)

    def batch(self, record: CommitRecord, index: int) -> pa.RecordBatch:
        """Return record batch `index` of a unit. Raises DatasetError if it cannot be read."""
        file, indices = self._open_unit(record)
        return file.batch(indices[index])

    def _open_unit(self, record: CommitRecord) -> tuple[ArrowFile, range]:
        """Return the part of a unit or, once `emu3 seal` has removed it, its shard, and the indices of its batches."""
        part = self.parts / record.part
        try:
            file = open_rows(part)
            return file, range(len(file))
        except DatasetError:
            if part.is_file() or not self.is_in_shard(record):
                raise
        try:
            return self.shard_reader.open_unit(record.unit)
        except DatasetError:
            if not self.reopen_shards():
                raise
        return self._open_unit(record)

    def rows(self, record: CommitRecord) -> Iterator[CodeRecord]:
        """Yield the rows of a unit. Raises DatasetError, before the first, if the file is damaged."""
        self.check_part(record)
        for batch in self.batches(record):
            yield from from_record_batch(self.texts.apply(batch))

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
        if found == MISSING and self.is_in_shard(record):
            problem = self.shard_reader.problem(record.unit)
            if problem and self.reopen_shards():
                return self.part_problem(record)
            return problem and f"{problem}; {self._describe_damage(record)}"
        if found == MISSING:
            return f"{path}: missing"
        return f"{path}: sha256 {found[:12]} expected {record.part_sha256[:12]}; {self._describe_damage(record)}"

    def quarantine_problem(self, record: CommitRecord) -> str | None:
        """Return how a unit's quarantine file differs from its checksum, None if it does not or there is none."""
        if record.quarantine is None:
            return None
        return checksum_problem(self.quarantine / record.quarantine, record.quarantine_sha256)

    def is_in_shard(self, record: CommitRecord) -> bool:
        """Whether a shard holds exactly the rows that were committed for a unit."""
        return self._holds(record) or (self.reopen_shards() and self._holds(record))

    def _holds(self, record: CommitRecord) -> bool:
        part = self.shard_reader.part(record.unit)
        return part is not None and part.sha256 == record.part_sha256

    def _describe_damage(self, record: CommitRecord) -> str:
        try:
            keys = [key for batch in self.batches(record) for key in damaged_keys(batch)]
        except (DatasetError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"its rows cannot be read: {error}"
        if not keys:
            return "all codes match their checksums, the damage is elsewhere in the file"
        return f"damaged rows: {', '.join(map(repr, keys[:_NAMED_KEYS]))}{' …' if len(keys) > _NAMED_KEYS else ''}"

    def manifest(self) -> Manifest:
        """Read the manifest. Raises DatasetError if it is missing or damaged."""
        return Manifest.read(self.manifest_path)

    def write_manifest(self, plan: Plan, shards: Sequence[Shard] | None = None, index: IndexFile | None = None) -> None:
        """List all parts, once every unit is committed.

        Shards and their index stay as listed unless others are given; a shard no longer lists a unit that has been
        committed again with different bytes. Raises DatasetError, and writes nothing, if the manifest is damaged or
        lost.
        """
        records = list(self.commit_records())
        if shards is None:
            self.reopen_shards()  # another process may have sealed the dataset meanwhile
            shards, index = self._current_shards(records), self.shard_reader.index
        manifest = Manifest.build(plan, records, shards, index)
        data = manifest.to_bytes()
        if not self.manifest_path.is_file() or self.manifest_path.read_bytes() != data:
            write_file(self.manifest_path, data)
        self.shard_reader = manifest.reader(self.shards)

    def _current_shards(self, records: Sequence[CommitRecord]) -> list[Shard]:
        """Return the listed shards, with those of their units that still hold what is committed."""
        current = {record.unit for record in records if self._holds(record)}
        return [
            replace(shard, units=tuple(location for location in shard.units if location[0] in current))
            for shard in self.shard_reader.shards
        ]
