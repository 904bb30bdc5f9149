"""Shards: files of 64 to 256 MB that `emu3 seal` merges parts into.

A shard holds the record batches of its parts unchanged, one unit after the other. The manifest lists the shards. A
unit is read from its part while the part exists, and from its shard afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile, open_rows
from shared.storage.checked_json import field_problem
from shared.storage.paths import checksum_problem, is_file_name

_SHARD_NAME = re.compile(r"codes-[0-9]{5,}\.")


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """One committed part; after `emu3 seal` its rows are in a shard and the file is gone."""

    unit: int
    part: str
    rows: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check_fields(self, self.part)


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
        """Raise KeyError, TypeError or ValueError for values that are not those of a shard."""
        return cls(**{**values, "units": tuple(map(tuple, values["units"]))})

    def __post_init__(self) -> None:
        _check_fields(self, self.shard)
        if not _SHARD_NAME.match(self.shard):
            raise ValueError(f"{self.shard!r:.80} is not the name of a shard")

    @property
    def number(self) -> int:
        """The number in the file name."""
        return int(self.shard[6:].partition(".")[0])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class IndexFile:
    """The index by key of the shards: its name in `index/`, its checksum and its size."""

    file: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _check_fields(self, self.file)


def _check_fields(record: Shard | ManifestPart | IndexFile, name: str) -> None:
    """Raise ValueError unless all fields are of their types and the name is that of a file."""
    if problem := field_problem(record):
        raise ValueError(problem)
    if not is_file_name(name):
        raise ValueError(f"{name!r:.80} is not a file name")


class ShardReader:
    """The shards of a dataset; each file is opened, and compared with its checksum, at most once.

    `parts` are the parts whose rows the shards hold.
    """

    def __init__(
        self,
        directory: Path,
        shards: Sequence[Shard] = (),
        parts: Iterable[ManifestPart] = (),
        index: IndexFile | None = None,
    ):
        self.directory = directory
        self.shards = tuple(shards)
        self.index = index
        self._locations = {unit: (shard, first, count) for shard in shards for unit, first, count in shard.units}
        self._parts = {part.unit: part for part in parts if part.unit in self._locations}
        self._files: dict[str, ArrowFile] = {}
        self._intact: set[str] = set()

    @property
    def units(self) -> set[int]:
        """All units in shards."""
        return set(self._locations)

    def __contains__(self, unit: int) -> bool:
        return unit in self._locations

    def part(self, unit: int) -> ManifestPart | None:
        """Return the part whose rows the shards hold for a unit, None if they hold none."""
        return self._parts.get(unit)

    def path(self, unit: int) -> Path:
        return self.directory / self._locations[unit][0].shard

    def problem(self, unit: int) -> str | None:
        """Return how the shard of a unit differs from its checksum, None if it does not."""
        return self.shard_problem(self._locations[unit][0])

    def shard_problem(self, shard: Shard) -> str | None:
        """Return how a shard differs from its checksum, None if it does not."""
        if shard.shard not in self._intact:
            if problem := checksum_problem(self.directory / shard.shard, shard.sha256):
                return problem
            self._intact.add(shard.shard)
        return None

    def batches(self, unit: int) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a unit. Raises DatasetError if the shard cannot be read."""
        file, indices = self.open_unit(unit)
        yield from map(file.batch, indices)

    def has_rows(self, unit: int, batches: Iterable[pa.RecordBatch]) -> bool:
        """Whether the shard of a unit holds exactly these record batches. Raises DatasetError if it cannot be read."""
        in_shard, others = list(self.batches(unit)), list(batches)
        return len(in_shard) == len(others) and all(map(pa.RecordBatch.equals, in_shard, others))

    def open_unit(self, unit: int) -> tuple[ArrowFile, range]:
        """Return the shard of a unit, and which of its record batches are the unit's.

        Raises DatasetError if the shard cannot be read.
        """
        shard, first, count = self._locations[unit]
        if shard.shard not in self._files:
            self._files[shard.shard] = open_rows(self.directory / shard.shard, "run `emu3 repair`")
        return self._files[shard.shard], range(first, first + count)
