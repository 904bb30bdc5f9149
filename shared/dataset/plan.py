"""The frozen work list of a dataset: one row a unit, with everything its worker must know.

`plan.arrow` is written once. What is added later (new inputs, quarantined ones to try again) stands in
`plan-0001.arrow`, `plan-0002.arrow`, …, whose units go on in numbering; none is ever changed.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from shared.dataset.settings import DatasetSettings
from shared.errors import ConfigMismatchError, DatasetError
from shared.storage.atomic import create_file
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.paths import read_buffer

PLAN_FORMAT = "emu3.plan/1"
_METADATA_KEY = b"emu3"
_INPUT_FIELDS = [
    pa.field("src_index", pa.int64(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("text", pa.string()),
    pa.field("refused_reason", pa.string()),
    pa.field("refused_detail", pa.string()),
    pa.field("extra_json", pa.string()),
    pa.field("place", pa.list_(pa.int64(), 2)),
    pa.field("frame_start", pa.int64()),
    pa.field("frame_stride", pa.int32()),
    pa.field("fps", pa.float32()),
]
_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("frames", pa.uint16(), nullable=False),
        pa.field("height", pa.uint16(), nullable=False),
        pa.field("width", pa.uint16(), nullable=False),
        pa.field("inputs", pa.large_list(pa.struct(_INPUT_FIELDS)), nullable=False),
    ]
)
Size = tuple[int, int, int]
REFUSED: Size = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input of a unit; `refused_reason` is set if it was refused while planning.

    `place` is where it stands within a container (a tar, a table). `frame_start`, `frame_stride` and `fps` say which
    frames of a video make the clip. `extra_json` holds what a job must know beside, as canonical JSON.
    """

    src_index: int
    key: str
    uri: str
    text: str | None = None
    refused_reason: str | None = None
    refused_detail: str | None = None
    extra_json: str | None = None
    place: tuple[int, int] | None = None
    frame_start: int | None = None
    frame_stride: int | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: inputs of one size, in frames (1: images) of `height` × `width` pixels (0 × 0: all refused)."""

    unit: int
    height: int
    width: int
    inputs: tuple[PlannedInput, ...]
    frames: int = 1

    @property
    def size(self) -> Size:
        return (self.frames, self.height, self.width)


@dataclass(frozen=True, slots=True)
class UnitSize:
    """Pixels, frames and number of inputs of a unit, without the inputs."""

    height: int
    width: int
    inputs: int
    frames: int = 1


class PlanFile:
    """One file of a plan, memory-mapped; units are read one at a time, by their place in the file."""

    def __init__(self, path: Path):
        self.path = path
        try:
            content = read_buffer(path)
            self.sha256 = hashlib.sha256(content).hexdigest()
            self._reader = pa.ipc.open_file(content)
            metadata = json.loads((self._reader.schema.metadata or {})[_METADATA_KEY])
            self.settings = DatasetSettings.from_json(metadata["settings"], str(path))
            self.input_count: int = metadata["inputs"]
            self.retried: dict[str, int] = metadata.get("retried", {})
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise DatasetError(f"{path}: expected a plan of emu3 ({PLAN_FORMAT}): {error}") from error

    def __len__(self) -> int:
        return int(self._reader.num_record_batches)

    def batch(self, index: int) -> pa.RecordBatch:
        try:
            batch = self._reader.get_batch(index)
            batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{self.path}: unit {index} cannot be read: {error}; run `emu3 verify`") from error
        return batch


class Plan:
    """A frozen plan and its additions. `sha256` is the first file's: it names the dataset."""

    def __init__(self, path: Path):
        self._files = [PlanFile(path)]
        while (addition := added_path(path, len(self._files))).is_file():
            self._files.append(PlanFile(addition))
        self._starts = list(accumulate((len(file) for file in self._files[:-1]), initial=0))
        self.sha256 = self._files[0].sha256
        self.settings = self._files[0].settings
        self.input_count = sum(file.input_count for file in self._files)

    def __len__(self) -> int:
        return sum(len(file) for file in self._files)

    @property
    def additions(self) -> int:
        """Number of files after the first."""
        return len(self._files) - 1

    def is_added(self, unit: int) -> bool:
        """Whether a unit stands in an addition."""
        return unit >= len(self._files[0])

    def next_index(self) -> int:
        """The first `src_index` that no input has."""
        return 1 + max((index for unit in range(len(self)) for index in self.src_indices(unit)), default=-1)

    @property
    def retried(self) -> dict[str, int]:
        """Inputs that were quarantined once and planned again, by the reason then."""
        reasons = {reason for file in self._files for reason in file.retried}
        return {reason: sum(file.retried.get(reason, 0) for file in self._files) for reason in sorted(reasons)}

    def _find(self, unit: int) -> tuple[PlanFile, int]:
        index = bisect_right(self._starts, unit) - 1
        return self._files[index], unit - self._starts[index]

    def _batch(self, unit: int) -> pa.RecordBatch:
        file, index = self._find(unit)
        return file.batch(index)

    def sha256_of(self, unit: int) -> str:
        """Of the file that plans a unit."""
        return self._find(unit)[0].sha256

    def unit(self, index: int) -> Unit:
        batch = self._batch(index)
        size = _unit_size(batch)
        return Unit(batch["unit"][0].as_py(), size.height, size.width, _planned(batch["inputs"].values), size.frames)

    def src_indices(self, unit: int) -> tuple[int, ...]:
        """Of a unit's inputs, read without the rest."""
        return tuple(self._batch(unit)["inputs"].values.field("src_index").to_pylist())

    def keys(self) -> Iterator[str]:
        """Of all inputs, unit after unit."""
        return self._column("key")

    def uris(self) -> Iterator[str]:
        """Of all inputs, unit after unit."""
        return self._column("uri")

    def _column(self, name: str) -> Iterator[str]:
        for unit in range(len(self)):
            yield from self._batch(unit)["inputs"].values.field(name).to_pylist()

    def sizes(self) -> list[UnitSize]:
        """Sizes of all units in order, read without their inputs."""
        return [_unit_size(self._batch(unit)) for unit in range(len(self))]

    def check_settings(self, settings: DatasetSettings, where: Path) -> None:
        """Raise ConfigMismatchError, with the differences, if the plan was made with different settings."""
        if diff := settings_diff(self.settings.to_json(), settings.to_json()):
            raise ConfigMismatchError(
                f"{where} was created with different settings:\n  "
                + "\n  ".join(diff)
                + "\nuse the recorded settings, or write a new dataset"
            )


def _planned(inputs: pa.StructArray) -> tuple[PlannedInput, ...]:
    """Column by column: four times as fast as row by row."""
    columns = {field.name: inputs.field(field.name).to_pylist() for field in inputs.type}
    if "place" in columns:
        columns["place"] = [place and tuple(place) for place in columns["place"]]
    return tuple(PlannedInput(**dict(zip(columns, values))) for values in zip(*columns.values()))


def _unit_size(batch: pa.RecordBatch) -> UnitSize:
    frames = batch["frames"][0].as_py() if "frames" in batch.schema.names else 1
    return UnitSize(batch["height"][0].as_py(), batch["width"][0].as_py(), len(batch["inputs"][0]), frames)


def added_path(path: Path, number: int) -> Path:
    """Where the `number`-th addition to a plan stands."""
    return path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


def largest_first(size: Size) -> tuple[int, Size]:
    """Sort key of sizes; what was refused comes last."""
    frames, height, width = size
    return (-frames * height * width, size)


def cut_units(by_size: Mapping[Size, Sequence[PlannedInput]], unit_rows: int) -> list[Unit]:
    """Units of at most `unit_rows` inputs of one (frames, height, width), largest sizes first."""
    chunks = (
        (size, by_size[size][start : start + unit_rows])
        for size in sorted(by_size, key=largest_first)
        for start in range(0, len(by_size[size]), unit_rows)
    )
    return [
        Unit(number, height, width, tuple(inputs), frames)
        for number, ((frames, height, width), inputs) in enumerate(chunks)
    ]


def freeze_plan(path: Path, units: Iterable[Unit], settings: DatasetSettings, input_count: int) -> None:
    """Writes a plan unless one is there already: the first of several jobs wins, and all follow its plan."""
    sink, schema = pa.BufferOutputStream(), plan_schema(settings, input_count)
    with pa.ipc.new_file(sink, schema) as writer:
        for unit in units:
            writer.write_batch(unit_batch(unit.unit, unit.size, unit.inputs, schema))
    create_file(path, sink.getvalue())


def plan_schema(settings: DatasetSettings, input_count: int, retried: Mapping[str, int] | None = None) -> pa.Schema:
    """Of a file of a plan, with what it says about all its units."""
    described = {"format": PLAN_FORMAT, "settings": settings.to_json(), "inputs": input_count}
    metadata = canonical_json({**described, **({"retried": dict(retried)} if retried else {})})
    return _SCHEMA.with_metadata({_METADATA_KEY: metadata.encode()})


def unit_batch(number: int, size: Size, inputs: Sequence[PlannedInput], schema: pa.Schema = _SCHEMA) -> pa.RecordBatch:
    """The row of one unit."""
    columns = [pa.array([getattr(item, field.name) for item in inputs], field.type) for field in _INPUT_FIELDS]
    rows = pa.StructArray.from_arrays(columns, fields=_INPUT_FIELDS)
    listed = pa.LargeListArray.from_arrays(
        pa.array([0, len(inputs)], pa.int64()), rows, type=schema.field("inputs").type
    )
    values = [pa.array([value], field.type) for value, field in zip((number, *size), schema)]
    return pa.RecordBatch.from_arrays([*values, listed], schema=schema)
