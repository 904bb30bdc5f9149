"""The exchange formats: what each provides, and all of them by name, for export and import alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from shared.dataset.plan import PlannedInput, Size, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.errors import UsageError
from shared.exchange.export_run import ExportRun
from shared.exchange.formats.parquet import Parquet
from shared.exchange.formats.shards import ShardedExport
from shared.exchange.formats.upstream import UpstreamFiles
from shared.exchange.formats.webdataset import WebDataset
from shared.exchange.options import ImportOptions
from shared.jobs.signals import StopFlag
from shared.storage.paths import as_path


class ImportSource(Protocol):
    """Rows to import, and the settings of the dataset that they form."""

    @property
    def settings(self) -> DatasetSettings: ...

    @property
    def keeps_order(self) -> bool:
        """Whether the dataset keeps the order of the rows; if not, its plan sorts them by size."""
        ...

    def __len__(self) -> int:
        """Return the number of rows, refused ones included."""
        ...

    def planned(self) -> Iterator[tuple[Size, PlannedInput]]:
        """Yield every row with the size of its grid; (0, 0, 0) for a row that is refused or has no grid."""
        ...

    def read(self, unit: Unit) -> tuple[list[CodeRecord], list[Refusal]]:
        """Read the rows of a planned unit; return those that can be imported and the refused inputs."""
        ...


class ExchangeFormat(Protocol):
    """A format that datasets are exported to and imported from."""

    @property
    def description(self) -> str:
        """Complete the message "expected …" if no format recognizes a source."""
        ...

    def export(self, run: ExportRun, stop: StopFlag) -> None:
        """Write all rows of `run`. Raises Interrupted after a signal, and UsageError if the folder is in use."""
        ...

    def recognizes(self, path: Path) -> bool:
        """Whether `path` holds rows in this format."""
        ...

    def open(self, path: Path, options: ImportOptions) -> ImportSource:
        """Open rows that this format recognizes. Raises UsageError if the options do not fit them."""
        ...


FORMATS: dict[str, ExchangeFormat] = {
    "webdataset": ShardedExport("webdataset", WebDataset()),
    "parquet": ShardedExport("parquet", Parquet()),
    "pth": UpstreamFiles(),
}


def open_source(options: ImportOptions) -> ImportSource:
    """Open the rows to import, in whatever format they are. Raises UsageError if no format recognizes them."""
    path = as_path(options.source)
    for exchange_format in FORMATS.values():
        if exchange_format.recognizes(path):
            return exchange_format.open(path, options)
    expected = dict.fromkeys(exchange_format.description for exchange_format in FORMATS.values())
    raise UsageError(f"{options.source}: expected {' or '.join(expected)}; found neither")
