"""Writes plans of any length in bounded memory: inputs are sorted in a table on disk."""

from __future__ import annotations

import marshal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import METADATA_KEY
from shared.dataset.plan import (
    INPUT_FIELDS,
    PLAN_FORMAT,
    PLAN_SCHEMA,
    Plan,
    PlannedInput,
    Size,
    Unit,
    addition_path,
)
from shared.dataset.settings import DatasetSettings
from shared.storage.atomic import create_copy
from shared.storage.digests import canonical_json
from shared.storage.temporary_database import naming_the_disk, temporary_database

_BUFFERED_INPUTS = 1 << 13
InputRow = tuple[Any, ...]  # the values of INPUT_FIELDS
UnitRow = tuple[tuple[int, int, int, int], Sequence[InputRow]]  # the number and the size of a unit, and its inputs
_LARGEST_FIRST = "frames * height * width DESC, frames, height, width, rowid"


class PlanWriter:
    """Collects inputs one by one, groups them into units of one size, and writes the plan. A context manager.

    The largest sizes come first and refused inputs last; inputs of one size stay in the order in which they were
    added. They are sorted in chunks: those of one size among the inputs that fit into the buffer. Raises OSError if
    the temporary directory is full.
    """

    def __init__(self, unit_rows: int):
        self.unit_rows = unit_rows
        self.inputs = 0
        self._buffer: dict[Size, list[InputRow]] = {}
        self._database = temporary_database()
        self._database.execute("CREATE TABLE chunks (frames, height, width, inputs)")

    def __enter__(self) -> PlanWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, size: Size, planned: PlannedInput) -> None:
        """Add one input. `size` is (frames, height, width) in pixels, (0, 0, 0) for a refused input."""
        self.inputs += 1
        self._buffer.setdefault(size, []).append(tuple(planned))
        if self.inputs % _BUFFERED_INPUTS == 0:
            self._flush()

    def units(self, first_unit: int = 0) -> Iterator[Unit]:
        """Yield the units in order, numbered from `first_unit`."""
        for number, (size, rows) in enumerate(self._row_groups(), first_unit):
            yield Unit(number, size[1], size[2], tuple(map(PlannedInput._make, rows)), size[0])

    def freeze(self, path: Path, settings: DatasetSettings) -> bool:
        """Write the plan. Returns False, and changes nothing, if there already is one."""
        return _write_plan(path, self._unit_rows(0), settings, self.inputs)

    def extend(self, plan: Plan, retried: Mapping[str, int] | None = None) -> bool:
        """Write an addition to a plan; `retried` counts the inputs that are planned again, by their first reason."""
        path = addition_path(plan.path, plan.additions + 1)
        return _write_plan(path, self._unit_rows(len(plan)), plan.settings, self.inputs, retried)

    def _unit_rows(self, first_unit: int) -> Iterator[UnitRow]:
        return (((number, *size), rows) for number, (size, rows) in enumerate(self._row_groups(), first_unit))

    def _row_groups(self) -> Iterator[tuple[Size, list[InputRow]]]:
        """Yield the inputs of each unit with their size, in order."""
        self._flush()
        chunks = self._database.execute(f"SELECT * FROM chunks ORDER BY {_LARGEST_FIRST}")
        for size, same_size in groupby(chunks, key=itemgetter(0, 1, 2)):
            rows = chain.from_iterable(marshal.loads(chunk[3]) for chunk in same_size)
            while group := list(islice(rows, self.unit_rows)):
                yield size, group

    def _flush(self) -> None:
        with naming_the_disk():
            self._database.execute("BEGIN")
            chunks = ((*size, marshal.dumps(rows)) for size, rows in self._buffer.items())
            self._database.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", chunks)
            self._database.execute("COMMIT")
        self._buffer.clear()


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
    rows = (((unit.unit, *unit.size), unit.inputs) for unit in units)
    return _write_plan(path, rows, settings, input_count, retried)


def _write_plan(
    path: Path,
    rows: Iterable[UnitRow],
    settings: DatasetSettings,
    input_count: int,
    retried: Mapping[str, int] | None = None,
) -> bool:
    metadata: dict[str, Any] = {"format": PLAN_FORMAT, "settings": settings.to_json(), "inputs": input_count}
    if retried:
        metadata["retried"] = dict(retried)
    schema = PLAN_SCHEMA.with_metadata({METADATA_KEY: canonical_json(metadata).encode()})
    with naming_the_disk(), tempfile.TemporaryDirectory(prefix="emu3-plan-") as directory:
        temporary = Path(directory) / "plan.arrow"
        with pa.ipc.new_file(str(temporary), schema) as writer:
            for numbers, inputs in rows:
                writer.write_batch(_unit_batch(numbers, inputs, schema))
        return create_copy(path, temporary)


def _unit_batch(numbers: Sequence[int], inputs: Sequence[InputRow], schema: pa.Schema) -> pa.RecordBatch:
    """Return the single row of a unit, of which `numbers` are all columns but the inputs."""
    columns = zip(*inputs) if inputs else [()] * len(INPUT_FIELDS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, INPUT_FIELDS)]
    offsets = pa.array([0, len(inputs)], pa.int64())
    rows = pa.StructArray.from_arrays(arrays, fields=INPUT_FIELDS)
    lists = pa.LargeListArray.from_arrays(offsets, rows, type=schema.field("inputs").type)
    values = [pa.array([value], field.type) for value, field in zip(numbers, schema)]
    return pa.RecordBatch.from_arrays([*values, lists], schema=schema)
