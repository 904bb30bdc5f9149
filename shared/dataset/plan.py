"""The frozen work list of a dataset: one row per unit of work, with everything that its worker needs.

`plan.arrow` is written once. What is planned later (new inputs, and quarantined inputs that are tried again) goes to
`plan-0001.arrow`, `plan-0002.arrow`, …, whose unit numbers continue. No file ever changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from shared.dataset.arrow_file import ArrowFile
from shared.dataset.settings import DatasetSettings
from shared.errors import ConfigMismatchError, DatasetError
from shared.storage.digests import settings_diff
from shared.storage.paths import file_identity

PLAN_FORMAT = "emu3.plan/1"
# The columns of the struct `inputs`, in the order of the fields of PlannedInput; `place` is its locator.
INPUT_FIELDS = [
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
PLAN_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("frames", pa.uint16(), nullable=False),
        pa.field("height", pa.uint16(), nullable=False),
        pa.field("width", pa.uint16(), nullable=False),
        pa.field("inputs", pa.large_list(pa.struct(INPUT_FIELDS)), nullable=False),
    ]
)
MAX_SIZE = 65535  # of frames, height and width, which are stored as uint16
Size = tuple[int, int, int]  # frames, height, width
REFUSED: Size = (0, 0, 0)


class PlannedInput(NamedTuple):
    """One input of a unit; `refused_reason` is set if it was refused during planning.

    `locator` is its position within a container: (offset, size) in a tar, (row group or batch, row) in a table,
    (file, row) in an export. `frame_start`, `frame_stride` and `fps` select the frames of a clip. `extra_json` holds
    what else the job needs, as canonical JSON.
    """

    src_index: int
    key: str
    uri: str
    text: str | None = None
    refused_reason: str | None = None
    refused_detail: str | None = None
    extra_json: str | None = None
    locator: tuple[int, int] | None = None
    frame_start: int | None = None
    frame_stride: int | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: inputs of one size, in pixels (generated videos: frames in codes).

    `frames` is 1 for images. Height and width are 0 if all inputs were refused.
    """

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
    """The size of a unit and its number of inputs."""

    height: int
    width: int
    inputs: int
    frames: int = 1


class PlanFile(ArrowFile):
    """One file of a plan; batch i is unit i of the file, which has number `first_unit` + i in the plan."""

    def __init__(self, path: Path, first_unit: int = 0):
        self._identity = file_identity(path)
        super().__init__(path, _is_plan)
        self.first_unit = first_unit
        metadata = self.metadata
        self.settings = DatasetSettings.from_json(metadata.get("settings"), str(path))
        self.input_count = self._count(metadata.get("inputs"))
        retried = metadata.get("retried") or {}
        if not isinstance(retried, dict):
            raise DatasetError(f"{path}: expected a plan ({PLAN_FORMAT}), got retried inputs {retried!r:.40}")
        self.retried = {reason: self._count(count) for reason, count in retried.items()}
        self.sha256 = self.compute_sha256()

    def _count(self, value: object) -> int:
        if not isinstance(value, int) or value < 0:
            raise DatasetError(
                f"{self.path}: expected a plan ({PLAN_FORMAT}) with numbers of inputs, got {value!r:.40}"
            )
        return value

    def batch(self, index: int) -> pa.RecordBatch:
        """Return the row of a unit. Raises DatasetError if it is damaged or of another unit."""
        batch = super().batch(index)
        if batch.num_rows != 1 or batch["unit"][0].as_py() != self.first_unit + index or batch["inputs"].null_count:
            raise DatasetError(
                f"{self.path}: batch {index}: expected unit {self.first_unit + index}; the plan is damaged"
            )
        return batch

    def check_in_place(self) -> None:
        """Raise DatasetError if the file has been replaced since it was opened."""
        if file_identity(self.path) != self._identity:
            raise DatasetError(
                f"{self.path}: replaced while this job was running; nothing more is written to the new dataset"
            )


def _is_plan(schema: pa.Schema) -> bool:
    """Whether the columns are those of a plan; early plans lack some of today's."""
    inputs = schema.field("inputs").type if "inputs" in schema.names else None
    if inputs is None or not pa.types.is_large_list(inputs) or not pa.types.is_struct(inputs.value_type):
        return False
    columns = {field.name: field.type for field in schema if field.name != "inputs"}
    known_columns = {field.name: field.type for field in PLAN_SCHEMA}
    fields = {field.name: field.type for field in inputs.value_type}
    known_fields = {field.name: field.type for field in INPUT_FIELDS}
    return (
        columns.keys() >= {"unit", "height", "width"}
        and fields.keys() >= {"src_index", "key", "uri"}
        and columns.items() <= known_columns.items()
        and fields.items() <= known_fields.items()
    )


class Plan:
    """A frozen plan and its additions; units are read one at a time.

    `sha256` is that of the first file; it identifies the dataset. Raises DatasetError if a file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files = [PlanFile(path)]
        while (addition := addition_path(path, len(self._files))).is_file():
            self._files.append(PlanFile(addition, self._files[-1].first_unit + len(self._files[-1])))
        self.sha256 = self._files[0].sha256
        self.settings = self._files[0].settings
        self.input_count = sum(file.input_count for file in self._files)

    def __len__(self) -> int:
        return sum(len(file) for file in self._files)

    @property
    def additions(self) -> int:
        """The number of files after the first."""
        return len(self._files) - 1

    def is_added(self, unit: int) -> bool:
        return unit >= len(self._files[0])

    def next_index(self) -> int:
        """Return the first unused `src_index`."""
        indices = (self._batch(unit)["inputs"].values.field("src_index") for unit in range(len(self)))
        return 1 + max((int(column.to_numpy().max()) for column in indices if len(column)), default=-1)

    @property
    def retried(self) -> dict[str, int]:
        """The number of inputs that were quarantined and planned again, by their first reason."""
        reasons = {reason for file in self._files for reason in file.retried}
        return {reason: sum(file.retried.get(reason, 0) for file in self._files) for reason in sorted(reasons)}

    def sha256_of(self, unit: int) -> str:
        """Return the SHA-256 of the file that plans a unit."""
        return self._find(unit)[0].sha256

    def file_of(self, unit: int) -> Path:
        """Return the file that plans a unit."""
        return self._find(unit)[0].path

    def check_in_place(self, unit: int) -> None:
        """Raise DatasetError if the file that plans a unit has been replaced since it was opened."""
        self._find(unit)[0].check_in_place()

    def unit(self, index: int) -> Unit:
        batch = self._batch(index)
        size, inputs = _unit_size(batch), _planned_inputs(batch["inputs"].values)
        return Unit(batch["unit"][0].as_py(), size.height, size.width, inputs, size.frames)

    def src_indices(self, unit: int) -> tuple[int, ...]:
        """Return the `src_index` of each input of a unit, without reading the rest."""
        return tuple(self._batch(unit)["inputs"].values.field("src_index").to_pylist())

    def keys(self) -> Iterator[str]:
        """Yield the keys of all inputs, unit after unit."""
        return self._column("key")

    def uris(self) -> Iterator[str]:
        """Yield the URIs of all inputs, unit after unit."""
        return self._column("uri")

    def refused_reasons(self) -> Iterator[str | None]:
        """Yield for each input, unit after unit, why it was refused during planning; None if it was not."""
        return self._column("refused_reason")

    def sizes(self) -> list[UnitSize]:
        """Return the sizes of all units, without reading their inputs."""
        return [_unit_size(self._batch(unit)) for unit in range(len(self))]

    def check_settings(self, settings: DatasetSettings, where: Path) -> None:
        """Raise ConfigMismatchError, with the differences, if the plan was made with different settings."""
        if diff := settings_diff(self.settings.to_json(), settings.to_json()):
            raise ConfigMismatchError(
                f"{where} was created with different settings:\n  "
                + "\n  ".join(diff)
                + "\nuse the recorded settings, or write a new dataset"
            )

    def _find(self, unit: int) -> tuple[PlanFile, int]:
        file = self._files[bisect_right(self._files, unit, key=attrgetter("first_unit")) - 1]
        return file, unit - file.first_unit

    def _batch(self, unit: int) -> pa.RecordBatch:
        file, index = self._find(unit)
        return file.batch(index)

    def _column(self, name: str) -> Iterator[Any]:
        for unit in range(len(self)):
            yield from _values(self._batch(unit)["inputs"].values, name)


def addition_path(path: Path, number: int) -> Path:
    """Return the path of addition `number`, counted from 1."""
    return path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


def _planned_inputs(inputs: pa.StructArray) -> tuple[PlannedInput, ...]:
    """Convert column by column, which is much faster than row by row."""
    return tuple(map(PlannedInput._make, zip(*(_values(inputs, field.name) for field in INPUT_FIELDS))))


def _values(inputs: pa.StructArray, name: str) -> list[Any]:
    """Return the values of a column, in a fifth of the time of `to_pylist`; early plans lack some columns."""
    column = inputs.field(name) if inputs.type.get_field_index(name) >= 0 else None
    if column is None or column.null_count == len(column):
        return [None] * len(inputs)
    if pa.types.is_string(column.type) or (pa.types.is_integer(column.type) and not column.null_count):
        return column.to_numpy(zero_copy_only=False).tolist()
    values = column.to_pylist()
    return [value and tuple(value) for value in values] if name == "place" else values


def _unit_size(batch: pa.RecordBatch) -> UnitSize:
    frames = batch["frames"][0].as_py() if "frames" in batch.schema.names else 1
    return UnitSize(batch["height"][0].as_py(), batch["width"][0].as_py(), len(batch["inputs"][0]), frames)
