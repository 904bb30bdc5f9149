"""Shards: files of 64 to 256 MB that `emu3 seal` merges parts into, and where each unit stands in them.

A shard holds the record batches of its parts unchanged, one unit after the other. The manifest lists the shards;
a unit is read from its part while that is there, and from its shard after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.errors import DatasetError
from shared.storage.paths import read_buffer, sha256_of


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as the manifest lists it; `units` are (unit, first record batch, record batches)."""

    shard: str
    bytes: int
    sha256: str
    rows: int
    units: tuple[tuple[int, int, int], ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Shard:
        units = tuple((int(unit), int(first), int(count)) for unit, first, count in values["units"])
        return cls(**{**values, "units": units})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class ShardReader:
    """The shards of a dataset; each file is opened, and compared with its checksum, once."""

    def __init__(self, directory: Path, shards: list[Shard]):
        self.directory = directory
        self.shards = shards
        self._places = {unit: (shard, first, count) for shard in shards for unit, first, count in shard.units}
        self._readers: dict[str, Any] = {}
        self._checked: set[str] = set()

    def __contains__(self, unit: int) -> bool:
        return unit in self._places

    def path(self, unit: int) -> Path:
        return self.directory / self._places[unit][0].shard

    def check(self, unit: int) -> str | None:
        """What is wrong with the shard of a unit, if anything."""
        shard = self._places[unit][0]
        if shard.shard not in self._checked:
            if (found := sha256_of(self.directory / shard.shard)) != shard.sha256:
                return f"{self.directory / shard.shard}: sha256 {found[:12]} expected {shard.sha256[:12]}"
            self._checked.add(shard.shard)
        return None

    def batches(self, unit: int) -> Iterator[pa.RecordBatch]:
        """Raises DatasetError if the shard cannot be read."""
        for index in range(self._places[unit][2]):
            yield self.batch(unit, index)

    def batch(self, unit: int, index: int) -> pa.RecordBatch:
        """The `index`-th record batch of a unit. Raises DatasetError if it cannot be read."""
        shard, first, _ = self._places[unit]
        try:
            batch = self._reader(shard.shard).get_batch(first + index)
            batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self.directory / shard.shard}: unit {unit} cannot be read: {error}; run `emu3 repair`"
            ) from error
        return batch

    def _reader(self, name: str) -> Any:
        if name not in self._readers:
            try:
                self._readers[name] = pa.ipc.open_file(read_buffer(self.directory / name))
            except (OSError, pa.ArrowException) as error:
                raise DatasetError(f"{self.directory / name}: cannot be read: {error}; run `emu3 repair`") from error
        return self._readers[name]
