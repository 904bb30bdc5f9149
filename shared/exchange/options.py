"""Options of the export and import jobs."""

from __future__ import annotations

from dataclasses import dataclass

from shared.codec import Codec
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export, where to and how.

    `format` is a name in `registry.FORMATS`. `shard_bytes` bounds the size of a file with many rows. `prefix` is the
    folder of the samples as upstream's list states it; by default the absolute path of the folder written.
    """

    dataset: str
    out: str
    format: str = "webdataset"
    shard_bytes: int = 256 << 20
    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise UsageError(f"--shard-mb: expected more than 0, got {self.shard_bytes} bytes")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What to import and where to.

    `source` is the folder of an export, a list of upstream's files or a folder with one. Only a list needs `codec`:
    its files do not name the codec of their codes.
    """

    source: str
    dataset: str
    codec: Codec | None = None
    unit_rows: int = 256
    max_refused_in_a_row: int = 1000

    def __post_init__(self) -> None:
        for name in ("unit_rows", "max_refused_in_a_row"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
