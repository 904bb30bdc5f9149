"""What an exchange format provides; `registry` lists the formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from shared.dataset.plan import PlannedInput, Size, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.exchange.export_run import ExportRun
from shared.exchange.options import ImportOptions
from shared.jobs.signals import StopFlag


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
