"""An export on disk: numbered files of rows in another format, and beside them the manifest of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from shared.dataset.dataset import Refusal
from shared.dataset.plan import REFUSED, PlannedInput, Size, Unit
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import DatasetError
from shared.exchange.formats.parquet import read_parquet, write_parquet
from shared.exchange.formats.webdataset import read_tar, write_tar
from shared.storage.checked_json import dump_sealed, load_sealed
from shared.storage.digests import canonical_json
from shared.storage.paths import read_buffer

EXPORT_FORMAT = "emu3.export/1"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How files of rows are called, written (from rows and settings) and read."""

    suffix: str
    write: Callable[[Sequence[CodeRecord], DatasetSettings], bytes]
    read: Callable[[pa.Buffer, str], Iterator[CodeRecord]]


ROW_FORMATS = {
    "webdataset": RowFormat(".tar", lambda records, settings: write_tar(records), read_tar),
    "parquet": RowFormat(".parquet", write_parquet, read_parquet),
}


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file as the manifest lists it."""

    file: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What an export holds. `digest` is that which `emu3 verify` prints for the dataset."""

    rows_as: str
    settings: DatasetSettings
    fingerprints: dict[str, Any]
    digest: str
    rows: int
    files: tuple[ExportedFile, ...]

    def to_json(self) -> bytes:
        return dump_sealed({"format": EXPORT_FORMAT, **asdict(self), "settings": self.settings.to_json()})

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ExportManifest:
        """Raises DatasetError if it is damaged, or no export's."""
        values = load_sealed(data, where)
        if values.pop("format", None) != EXPORT_FORMAT or values.get("rows_as") not in ROW_FORMATS:
            raise DatasetError(f"{where}: expected the manifest of an export ({EXPORT_FORMAT})")
        files = tuple(ExportedFile(**file) for file in values.pop("files"))
        settings = DatasetSettings.from_json(values.pop("settings"), where)
        return cls(**values, settings=settings, files=files)


class ExportedRows:
    """The rows of an export, in their order. A file is compared with its checksum before it is read."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = self.folder / MANIFEST
        self.manifest = ExportManifest.from_json(path.read_bytes(), str(path))
        self.settings = self.manifest.settings
        self._format = ROW_FORMATS[self.manifest.rows_as]
        self._mark = canonical_json({"export": self.manifest.digest})
        self._place = (-1, 0)
        self._rows: Iterator[CodeRecord] = iter(())

    def __len__(self) -> int:
        return self.manifest.rows

    def file_rows(self, index: int) -> Iterator[CodeRecord]:
        """Rows of one file. Raises DatasetError if it is missing or damaged."""
        listed = self.manifest.files[index]
        path = self.folder / listed.file
        if not path.is_file():
            raise DatasetError(f"{path}: missing; export the dataset again")
        content = read_buffer(path)
        if (found := hashlib.sha256(content).hexdigest()) != listed.sha256:
            raise DatasetError(
                f"{path}: sha256 {found[:12]} of {len(content)} bytes, expected {listed.sha256[:12]} of {listed.bytes};"
                " copy or export it again"
            )
        yield from self._format.read(content, str(path))

    def planned(self) -> Iterator[tuple[Size, PlannedInput]]:
        """Every row with the size of its grid, (0, 0, 0) where it has none.

        `place` is (file, row), `extra_json` says of which rows, so that others are not taken for them later.
        """
        for file in range(len(self.manifest.files)):
            for row, record in enumerate(self.file_rows(file)):
                t, h, w = record.codes_THW.shape
                size = (t, h, w) if record.has_grid else REFUSED
                place = (file, row)
                yield (
                    size,
                    PlannedInput(record.src_index, record.key, record.src_uri, extra_json=self._mark, place=place),
                )

    def read(self, unit: Unit) -> tuple[list[CodeRecord], list[Refusal]]:
        """The rows of a unit; quick if it follows the one read before. Raises DatasetError if it is not there."""
        return [self._row(planned) for planned in unit.inputs], []

    def _row(self, planned: PlannedInput) -> CodeRecord:
        assert planned.place is not None, "rows of an export are planned with their places"
        file, row = planned.place
        if planned.extra_json != self._mark:
            raise DatasetError(f"{self.folder}: the import was begun from other rows; import into a new dataset")
        if self._place != planned.place:
            self._rows = islice(self.file_rows(file), row, None)
        self._place = (file, row + 1)
        record = next(self._rows, None)
        if record is None or record.key != planned.key:
            raise DatasetError(f"{self.folder}: row {planned.key!r} is not where it was; import into a new dataset")
        return record
