"""Writes a plan of any length in bounded memory: inputs go to a temporary table on disk, and are put in order there."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.plan import PlannedInput, Size, plan_schema, unit_batch
from shared.dataset.settings import DatasetSettings
from shared.storage.atomic import create_file
from shared.storage.paths import read_buffer

_BUFFERED = 1024  # inputs on their way to the table
_SIZE = ("frames", "height", "width")
_INPUT = tuple(field.name for field in fields(PlannedInput) if field.name != "place")
_COLUMNS = (*_SIZE, "place_0", "place_1", *_INPUT)
_LARGEST_FIRST = "frames * height * width DESC, frames, height, width, rowid"  # as `plan.largest_first`


class KnownKeys:
    """Keys seen so far, as digests of 16 bytes however long they are; those of `before` count as seen."""

    def __init__(self, keys: Iterable[str] = (), before: KnownKeys | None = None):
        self._digests: set[bytes] = set()
        self._before = before
        for key in keys:
            self.is_new(key)

    def is_new(self, key: str) -> bool:
        """Whether the key was not seen before; it is from now on."""
        if self.has(key):
            return False
        self._digests.add(_digest(key))
        return True

    def has(self, key: str) -> bool:
        return _digest(key) in self._digests or (self._before is not None and self._before.has(key))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


class PlanWriter:
    """Takes inputs one by one, cuts them into units of one size, and freezes the whole; a context manager.

    Raises OSError if the temporary directory is full.
    """

    def __init__(self, unit_rows: int):
        self.unit_rows = unit_rows
        self.inputs = 0
        self._buffer: list[tuple[Any, ...]] = []
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"CREATE TABLE inputs ({', '.join(_COLUMNS)})")

    def __enter__(self) -> PlanWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, size: Size, planned: PlannedInput) -> None:
        """`size` is (frames, height, width) in pixels; (0, 0, 0) of what was refused."""
        self.inputs += 1
        place = planned.place or (None, None)
        self._buffer.append((*size, *place, *(getattr(planned, name) for name in _INPUT)))
        if len(self._buffer) == _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        with _telling_where():
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT INTO inputs VALUES ({', '.join('?' * len(_COLUMNS))})", self._buffer)
            self._database.execute("COMMIT")
        self._buffer.clear()

    def freeze(
        self, path: Path, settings: DatasetSettings, first_unit: int = 0, retried: Mapping[str, int] | None = None
    ) -> bool:
        """Writes the plan, largest sizes first. Returns False, and changes nothing, if one is there already."""
        self._flush()
        schema = plan_schema(settings, self.inputs, retried)
        with _telling_where(), tempfile.TemporaryDirectory(prefix="emu3-plan-") as directory:
            ordered = Path(directory) / "plan.arrow"
            with pa.ipc.new_file(str(ordered), schema) as writer:
                for number, (size, inputs) in enumerate(self._units(), first_unit):
                    writer.write_batch(unit_batch(number, size, inputs, schema))
            return create_file(path, read_buffer(ordered))

    def _units(self) -> Iterator[tuple[Size, list[PlannedInput]]]:
        """Within a size inputs are in the order they came in."""
        rows = self._database.execute(f"SELECT * FROM inputs ORDER BY {_LARGEST_FIRST}")
        for size, same_size in groupby(rows, key=itemgetter(0, 1, 2)):
            while inputs := [_planned(row) for row in islice(same_size, self.unit_rows)]:
                yield size, inputs


@contextmanager
def _telling_where() -> Iterator[None]:
    """SQLite's errors are no OSErrors, and do not name the disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"plan under way in {tempfile.gettempdir()}: {error}; set TMPDIR to a larger disk") from error


def _planned(row: tuple[Any, ...]) -> PlannedInput:
    values = dict(zip(_COLUMNS[len(_SIZE) :], row[len(_SIZE) :]))
    place = values.pop("place_0"), values.pop("place_1")
    return PlannedInput(**values, place=None if place[0] is None else place)
