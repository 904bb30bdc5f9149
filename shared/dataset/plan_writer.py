"""Writes plans of any length in bounded memory: inputs are sorted in a table on disk, keys are kept as digests."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import METADATA_KEY, read_buffer
from shared.dataset.plan import (
    INPUT_FIELDS,
    PLAN_FORMAT,
    PLAN_SCHEMA,
    RENAMED_COLUMNS,
    Plan,
    PlannedInput,
    Size,
    Unit,
    addition_path,
)
from shared.dataset.settings import DatasetSettings
from shared.storage.atomic import create_file
from shared.storage.digests import canonical_json
from shared.storage.temporary_database import naming_the_disk, temporary_database

_BUFFERED_INPUTS = 1024
_SIZE = ("frames", "height", "width")
_INPUT = tuple(field.name for field in fields(PlannedInput) if field.name != "locator")
_COLUMNS = (*_SIZE, "locator_0", "locator_1", *_INPUT)
_LARGEST_FIRST = "frames * height * width DESC, frames, height, width, rowid"


class PlanWriter:
    """Collects inputs one by one, groups them into units of one size, and writes the plan. A context manager.

    The largest sizes come first and refused inputs last; inputs of one size stay in the order in which they were
    added. Raises OSError if the temporary directory is full.
    """

    def __init__(self, unit_rows: int):
        self.unit_rows = unit_rows
        self.inputs = 0
        self._buffer: list[tuple[Any, ...]] = []
        self._database = temporary_database()
        self._database.execute(f"CREATE TABLE inputs ({', '.join(_COLUMNS)})")

    def __enter__(self) -> PlanWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, size: Size, planned: PlannedInput) -> None:
        """Add one input. `size` is (frames, height, width) in pixels, (0, 0, 0) for a refused input."""
        self.inputs += 1
        locator = planned.locator or (None, None)
        self._buffer.append((*size, *locator, *(getattr(planned, name) for name in _INPUT)))
        if len(self._buffer) == _BUFFERED_INPUTS:
            self._flush()

    def units(self, first_unit: int = 0) -> Iterator[Unit]:
        """Yield the units in order, numbered from `first_unit`."""
        self._flush()
        rows = self._database.execute(f"SELECT * FROM inputs ORDER BY {_LARGEST_FIRST}")
        number = first_unit
        for (frames, height, width), same_size in groupby(rows, key=itemgetter(0, 1, 2)):
            while inputs := tuple(_planned_input(row) for row in islice(same_size, self.unit_rows)):
                yield Unit(number, height, width, inputs, frames)
                number += 1

    def freeze(self, path: Path, settings: DatasetSettings) -> bool:
        """Write the plan. Returns False, and changes nothing, if there already is one."""
        return freeze_plan(path, self.units(), settings, self.inputs)

    def extend(self, plan: Plan, retried: Mapping[str, int] | None = None) -> bool:
        """Write an addition to a plan; `retried` counts the inputs that are planned again, by their first reason."""
        path = addition_path(plan.path, plan.additions + 1)
        return freeze_plan(path, self.units(len(plan)), plan.settings, self.inputs, retried)

    def _flush(self) -> None:
        with naming_the_disk():
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT INTO inputs VALUES ({', '.join('?' * len(_COLUMNS))})", self._buffer)
            self._database.execute("COMMIT")
        self._buffer.clear()


def _planned_input(row: tuple[Any, ...]) -> PlannedInput:
    values = dict(zip(_COLUMNS[len(_SIZE) :], row[len(_SIZE) :]))
    locator = values.pop("locator_0"), values.pop("locator_1")
    return PlannedInput(**values, locator=None if locator[0] is None else locator)


def freeze_plan(
    path: Path,
    units: Iterable[Unit],
    settings: DatasetSettings,
    input_count: int,
    retried: Mapping[str, int] | None = None,
) -> bool:
    """Write one file of a plan, unit by unit, unless it exists: the first of several jobs wins, all follow its plan.

    Returns whether the file was created.
    """
    metadata: dict[str, Any] = {"format": PLAN_FORMAT, "settings": settings.to_json(), "inputs": input_count}
    if retried:
        metadata["retried"] = dict(retried)
    schema = PLAN_SCHEMA.with_metadata({METADATA_KEY: canonical_json(metadata).encode()})
    with naming_the_disk(), tempfile.TemporaryDirectory(prefix="emu3-plan-") as directory:
        temporary = Path(directory) / "plan.arrow"
        with pa.ipc.new_file(str(temporary), schema) as writer:
            for unit in units:
                writer.write_batch(_unit_batch(unit, schema))
        return create_file(path, read_buffer(temporary))


def _unit_batch(unit: Unit, schema: pa.Schema) -> pa.RecordBatch:
    """Return the single row of a unit."""
    getters = (attrgetter(RENAMED_COLUMNS.get(field.name, field.name)) for field in INPUT_FIELDS)
    columns = [pa.array(list(map(get, unit.inputs)), field.type) for get, field in zip(getters, INPUT_FIELDS)]
    offsets = pa.array([0, len(unit.inputs)], pa.int64())
    rows = pa.StructArray.from_arrays(columns, fields=INPUT_FIELDS)
    inputs = pa.LargeListArray.from_arrays(offsets, rows, type=schema.field("inputs").type)
    values = [pa.array([value], field.type) for value, field in zip((unit.unit, *unit.size), schema)]
    return pa.RecordBatch.from_arrays([*values, inputs], schema=schema)


class KnownKeys:
    """A set of keys, kept as digests of 16 bytes however long they are; the keys of `before` are in it too."""

    def __init__(self, keys: Iterable[str] = (), before: KnownKeys | None = None):
        self._digests: set[bytes] = set()
        self._before = before
        for key in keys:
            self.is_new(key)

    def is_new(self, key: str) -> bool:
        """Add a key; return whether it was not in the set before."""
        if self.has(key):
            return False
        self._digests.add(_digest(key))
        return True

    def has(self, key: str) -> bool:
        return _digest(key) in self._digests or (self._before is not None and self._before.has(key))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
