"""The frozen work list of a dataset, `plan.arrow`: one row a unit, with everything its worker must know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.atomic import create_file
from shared.errors import ConfigMismatchError, DatasetError
from shared.fingerprint import canonical_json, settings_diff

PLAN_FORMAT = "emu3.plan/1"
_METADATA_KEY = b"emu3"
_INPUT = pa.struct(
    [
        pa.field("src_index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("refused_reason", pa.string()),
        pa.field("refused_detail", pa.string()),
        pa.field("extra_json", pa.string()),
    ]
)
_SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("height", pa.uint16(), nullable=False),
        pa.field("width", pa.uint16(), nullable=False),
        pa.field("inputs", pa.large_list(_INPUT), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input of a unit; `refused_reason` is set if it was refused while planning.

    `extra_json` holds what a job must know of this input beside its text, as canonical JSON.
    """

    src_index: int
    key: str
    uri: str
    text: str | None = None
    refused_reason: str | None = None
    refused_detail: str | None = None
    extra_json: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: inputs that all become pictures of `height` × `width` pixels (0 × 0: all refused)."""

    unit: int
    height: int
    width: int
    inputs: tuple[PlannedInput, ...]


@dataclass(frozen=True, slots=True)
class UnitSize:
    """Pixels and number of inputs of a unit, without the inputs."""

    height: int
    width: int
    inputs: int


class Plan:
    """A frozen plan, memory-mapped; units are read one at a time."""

    def __init__(self, path: Path):
        self._path = path
        try:
            content = pa.memory_map(str(path)).read_buffer()
            self.sha256 = hashlib.sha256(content).hexdigest()
            self._reader = pa.ipc.open_file(content)
            metadata = json.loads((self._reader.schema.metadata or {})[_METADATA_KEY])
            self.settings: dict[str, Any] = metadata["settings"]
            self.input_count: int = metadata["inputs"]
        except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
            raise DatasetError(f"{path}: expected a plan of emu3 ({PLAN_FORMAT}): {error}") from error

    def __len__(self) -> int:
        return int(self._reader.num_record_batches)

    def _batch(self, index: int) -> pa.RecordBatch:
        try:
            batch = self._reader.get_batch(index)
            batch.validate(full=True)  # Arrow trusts offsets: a damaged file would be read out of bounds
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{self._path}: unit {index} cannot be read: {error}; run `emu3 verify`") from error
        return batch

    def unit(self, index: int) -> Unit:
        row = self._batch(index).to_pylist()[0]
        return Unit(row["unit"], row["height"], row["width"], tuple(PlannedInput(**item) for item in row["inputs"]))

    def sizes(self) -> list[UnitSize]:
        """Sizes of all units in order, read without their inputs."""
        return [
            UnitSize(batch["height"][0].as_py(), batch["width"][0].as_py(), len(batch["inputs"][0]))
            for batch in map(self._batch, range(len(self)))
        ]

    def check_settings(self, given: Mapping[str, Any], where: Path, allowed: Iterable[str] = ()) -> None:
        """Raises ConfigMismatchError with the diff if a group of settings differs that is not `allowed` to."""
        free = set(allowed)
        recorded = {name: value for name, value in self.settings.items() if name not in free}
        if diff := settings_diff(recorded, {name: value for name, value in given.items() if name not in free}):
            raise ConfigMismatchError(
                f"{where} was begun with other settings:\n  "
                + "\n  ".join(diff)
                + "\nuse the recorded settings, or write a new dataset"
            )


def cut_units(by_size: Mapping[tuple[int, int], Sequence[PlannedInput]], unit_rows: int) -> list[Unit]:
    """Units of at most `unit_rows` inputs of one (height, width), largest sizes first; (0, 0) holds the refused."""
    chunks = (
        (size, by_size[size][start : start + unit_rows])
        for size in sorted(by_size, key=lambda size: (-size[0] * size[1], size))
        for start in range(0, len(by_size[size]), unit_rows)
    )
    return [Unit(number, *size, tuple(inputs)) for number, (size, inputs) in enumerate(chunks)]


def freeze_plan(path: Path, units: Iterable[Unit], settings: Mapping[str, Any], input_count: int) -> None:
    """Writes a plan unless one is there already: the first of several jobs wins, and all follow its plan."""
    metadata = canonical_json({"format": PLAN_FORMAT, "settings": dict(settings), "inputs": input_count})
    schema = _SCHEMA.with_metadata({_METADATA_KEY: metadata.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for unit in units:
            inputs = [{name: getattr(item, name) for name in PlannedInput.__slots__} for item in unit.inputs]
            row = {"unit": unit.unit, "height": unit.height, "width": unit.width, "inputs": inputs}
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
    create_file(path, sink.getvalue().to_pybytes())
