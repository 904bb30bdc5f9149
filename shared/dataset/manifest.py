"""The manifest of a complete dataset: its parts, its shards, and how many rows they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.dataset.commit import CommitRecord
from shared.dataset.plan import Plan
from shared.dataset.settings import DatasetSettings
from shared.dataset.shards import IndexFile, ManifestPart, Shard, ShardReader
from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json, field_problem, load_checked_json
from shared.storage.small_files import read_small_file

MAX_BYTES = 1 << 30  # a part takes about 200 bytes, and 10⁸ rows are 400 000 parts


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a complete dataset. `plan_sha256` is that of `plan.arrow`, without additions."""

    plan_sha256: str
    settings: DatasetSettings
    rows: int
    quarantined: int
    parts: tuple[ManifestPart, ...]
    shards: tuple[Shard, ...] = ()
    index: IndexFile | None = None

    @classmethod
    def build(
        cls, plan: Plan, records: Iterable[CommitRecord], shards: Sequence[Shard], index: IndexFile | None = None
    ) -> Manifest:
        """List what the commit records hold; an input that was planned again counts once in `quarantined`."""
        records = list(records)
        return cls(
            plan_sha256=plan.sha256,
            settings=plan.settings,
            rows=sum(record.rows for record in records),
            quarantined=sum(record.refused for record in records) - sum(plan.retried.values()),
            parts=tuple(ManifestPart(r.unit, r.part, r.rows, r.part_bytes, r.part_sha256) for r in records),
            shards=tuple(shards),
            index=index,
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a file. Raises DatasetError if it is missing, damaged or not a manifest."""
        try:
            return cls.from_bytes(read_small_file(path, MAX_BYTES, DatasetError), str(path))
        except DatasetError as error:
            raise DatasetError(f"{error}; run `emu3 repair`") from error

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse a manifest. Raises DatasetError if the bytes are damaged or not those of a manifest."""
        values = load_checked_json(data, where)
        try:
            del values["format"]  # the settings have it too
            values["settings"] = DatasetSettings.from_json(values["settings"], where)
            values["parts"] = tuple(ManifestPart(**part) for part in values["parts"])
            values["shards"] = tuple(Shard.from_json(shard) for shard in values.get("shards", ()))
            values["index"] = IndexFile(**values["index"]) if "index" in values else None
            manifest = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: expected a manifest: {error!r}") from error
        if problem := field_problem(manifest):
            raise DatasetError(f"{where}: expected a manifest: {problem}")
        return manifest

    def to_bytes(self) -> bytes:
        """Return checked JSON; a dataset without shards has neither `shards` nor `index`."""
        values: dict[str, Any] = {**asdict(self), "format": self.settings.format, "settings": self.settings.to_json()}
        for name in ("shards", "index"):
            if not values[name]:
                del values[name]
        return dump_checked_json(values)

    def reader(self, directory: Path) -> ShardReader:
        """Return a reader of the shards in `directory`."""
        return ShardReader(directory, self.shards, self.parts, self.index)
