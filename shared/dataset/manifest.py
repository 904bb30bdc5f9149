"""The manifest of a complete dataset: its parts, its shards, and how many rows they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from shared.dataset.commit import CommitRecord
from shared.dataset.plan import Plan
from shared.dataset.settings import DatasetSettings
from shared.dataset.shards import Shard
from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json, load_checked_json


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """One committed part; after `emu3 seal` its rows are in a shard and the file is gone."""

    unit: int
    part: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a complete dataset. `plan_sha256` is that of `plan.arrow`, without additions."""

    plan_sha256: str
    settings: DatasetSettings
    rows: int
    quarantined: int
    parts: tuple[ManifestPart, ...]
    shards: tuple[Shard, ...] = ()

    @classmethod
    def build(cls, plan: Plan, records: Iterable[CommitRecord], shards: Sequence[Shard]) -> Manifest:
        """List what the commit records hold; an input that was planned again counts once in `quarantined`."""
        records = list(records)
        return cls(
            plan_sha256=plan.sha256,
            settings=plan.settings,
            rows=sum(record.rows for record in records),
            quarantined=sum(record.refused for record in records) - sum(plan.retried.values()),
            parts=tuple(ManifestPart(r.unit, r.part, r.rows, r.part_bytes, r.part_sha256) for r in records),
            shards=tuple(shards),
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parse a manifest. Raises DatasetError if the bytes are damaged or not those of a manifest."""
        values = load_checked_json(data, where)
        try:
            del values["format"]  # the settings have it too
            values["settings"] = DatasetSettings.from_json(values["settings"], where)
            values["parts"] = tuple(ManifestPart(**part) for part in values["parts"])
            values["shards"] = tuple(Shard.from_json(shard) for shard in values.get("shards", ()))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: expected a manifest: {error!r}") from error

    def to_bytes(self) -> bytes:
        """Return checked JSON; a dataset without shards has no member `shards`."""
        values = {**asdict(self), "format": self.settings.format, "settings": self.settings.to_json()}
        if not self.shards:
            del values["shards"]
        return dump_checked_json(values)
