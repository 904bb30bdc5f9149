"""Shards: files of 64 to 256 MB that `emu3 seal` merges parts into.

A shard holds the record batches of its parts unchanged, one unit after the other. The manifest lists the shards. A
unit is read from its part while the part exists, and from its shard afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile
from shared.storage.paths import sha256_of


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as the manifest lists it; `units` are (unit, first record batch, number of record batches)."""

    shard: str
    bytes: int
    sha256: str
    rows: int
    units: tuple[tuple[int, int, int], ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Shard:
        units = tuple((int(unit), int(first), int(count)) for unit, first, count in values["units"])
        return cls(**{**values, "units": units})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class ShardReader:
    """The shards of a dataset; each file is opened, and compared with its checksum, at most once."""

    def __init__(self, directory: Path, shards: Sequence[Shard] = ()):
        self.directory = directory
        self.shards = tuple(shards)
        self._locations = {unit: (shard, first, count) for shard in shards for unit, first, count in shard.units}
        self._files: dict[str, ArrowFile] = {}
        self._intact: set[str] = set()

    def __contains__(self, unit: int) -> bool:
        return unit in self._locations

    def path(self, unit: int) -> Path:
        return self.directory / self._locations[unit][0].shard

    def problem(self, unit: int) -> str | None:
        """Return how the shard of a unit differs from its checksum, None if it does not."""
        shard = self._locations[unit][0]
        if shard.shard not in self._intact:
            if (found := sha256_of(self.directory / shard.shard)) != shard.sha256:
                return f"{self.directory / shard.shard}: sha256 {found[:12]} expected {shard.sha256[:12]}"
            self._intact.add(shard.shard)
        return None

    def batches(self, unit: int) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a unit. Raises DatasetError if the shard cannot be read."""
        return (self.batch(unit, index) for index in range(self._locations[unit][2]))

    def batch(self, unit: int, index: int) -> pa.RecordBatch:
        """Return record batch `index` of a unit. Raises DatasetError if the shard cannot be read."""
        shard, first, _ = self._locations[unit]
        if shard.shard not in self._files:
            self._files[shard.shard] = ArrowFile(self.directory / shard.shard, "run `emu3 repair`")
        return self._files[shard.shard].batch(first + index)
