"""The shards of an export as an import source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from shared.dataset.arrow_file import read_buffer
from shared.dataset.plan import REFUSED, PlannedInput, Size, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError
from shared.exchange.manifest import MANIFEST_NAME, ExportManifest
from shared.storage.digests import canonical_json


class ShardSource:
    """The rows of an export, in their order. Implements `ImportSource`.

    `load` reads the rows of one shard. The checksum of a shard is verified before it is read.
    """

    keeps_order = True

    def __init__(self, folder: Path, load: Callable[[pa.Buffer, str], Iterator[CodeRecord]]):
        self.folder = folder
        manifest = ExportManifest.read(folder)
        if manifest is None:
            raise DatasetError(f"{folder}: expected {MANIFEST_NAME} of an export; found none")
        self.manifest = manifest
        self.settings = manifest.settings
        self._load = load
        self._origin = canonical_json({"export": manifest.digest})
        self._rows: Iterator[CodeRecord] = iter(())  # an open shard, and the location of its next row
        self._next = (-1, 0)

    def __len__(self) -> int:
        return self.manifest.rows

    def shard_rows(self, index: int) -> Iterator[CodeRecord]:
        """Yield the rows of one shard. Raises DatasetError if it is missing or damaged."""
        listed = self.manifest.files[index]
        path = self.folder / listed.name
        if not path.is_file():
            raise DatasetError(f"{path}: missing; export the dataset again")
        content = read_buffer(path)
        if (found := hashlib.sha256(content).hexdigest()) != listed.sha256:
            raise DatasetError(
                f"{path}: sha256 {found[:12]} of {len(content)} bytes, expected {listed.sha256[:12]} of"
                f" {listed.size_bytes}; copy or export it again"
            )
        yield from self._load(content, str(path))

    def planned(self) -> Iterator[tuple[Size, PlannedInput]]:
        """Yield every row with the size of its grid.

        The plan records where each row is, as (shard, row), and in `extra_json` which export it belongs to, so that a
        resumed import notices if the export has been replaced.
        """
        for shard in range(len(self.manifest.files)):
            for row, record in enumerate(self.shard_rows(shard)):
                t, h, w = record.codes_THW.shape
                yield (
                    (t, h, w) if record.has_grid else REFUSED,
                    PlannedInput(
                        record.src_index, record.key, record.src_uri, extra_json=self._origin, locator=(shard, row)
                    ),
                )

    def read(self, unit: Unit) -> tuple[list[CodeRecord], list[Refusal]]:
        """Read the rows of a unit, fastest if it follows the unit read before. Raises DatasetError."""
        return [self._row(planned) for planned in unit.inputs], []

    def _row(self, planned: PlannedInput) -> CodeRecord:
        assert planned.locator is not None, "the plan of an import locates every row"
        if planned.extra_json != self._origin:
            raise DatasetError(f"{self.folder}: the import started from other rows; import into a new dataset")
        shard, row = planned.locator
        if self._next != planned.locator:
            self._rows = islice(self.shard_rows(shard), row, None)
        self._next = (shard, row + 1)
        record = next(self._rows, None)
        if record is None or record.key != planned.key:
            raise DatasetError(f"{self.folder}: row {planned.key!r} has moved; import into a new dataset")
        return record
