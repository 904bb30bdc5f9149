"""The exchange formats by name, for export and import alike."""

from __future__ import annotations

from shared.errors import UsageError
from shared.exchange.exchange_format import ExchangeFormat, ImportSource
from shared.exchange.formats.parquet import Parquet
from shared.exchange.formats.shards import ShardedExport
from shared.exchange.formats.upstream import UpstreamFiles
from shared.exchange.formats.webdataset import WebDataset
from shared.exchange.options import ImportOptions
from shared.storage.paths import as_path

FORMATS: dict[str, ExchangeFormat] = {
    "webdataset": ShardedExport("webdataset", WebDataset()),
    "parquet": ShardedExport("parquet", Parquet()),
    "pth": UpstreamFiles(),
}


def format_named(name: str) -> ExchangeFormat:
    """Return a format. Raises UsageError if there is none of this name."""
    if name not in FORMATS:
        raise UsageError(f"--format {name}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def open_source(options: ImportOptions) -> ImportSource:
    """Open the rows to import, in whatever format they are. Raises UsageError if no format recognizes them."""
    path = as_path(options.source)
    for exchange_format in FORMATS.values():
        if exchange_format.recognizes(path):
            return exchange_format.open(path, options)
    expected = dict.fromkeys(exchange_format.description for exchange_format in FORMATS.values())
    raise UsageError(f"{options.source}: expected {' or '.join(expected)}; found neither")
