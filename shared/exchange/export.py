"""The export job: the rows of a dataset as WebDataset tars, Parquet files, or upstream's files.

Equal rows give equal files. Each file appears under its name only when it is complete, and the file that lists the
others is written last. A file that already exists with the same bytes is not written again.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.dataset.dataset import Dataset
from shared.dataset.settings import ANSWER_FORMAT
from shared.errors import UsageError
from shared.exchange.export_run import ExportRun
from shared.exchange.options import ExportOptions
from shared.exchange.registry import FORMATS
from shared.jobs.signals import stop_on_signals


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What the folder now holds.

    `written` files are from this run; `skipped` rows have no codes, which `pth` cannot represent.
    """

    rows: int
    files: int
    size_bytes: int
    written: int
    skipped: int
    digest: str


def export(options: ExportOptions) -> ExportResult:
    """Export a dataset; the same call resumes.

    Raises DatasetError if units are missing or damaged, UsageError if the folder holds something else, and
    Interrupted after SIGINT or SIGTERM.
    """
    if options.format not in FORMATS:
        raise UsageError(f"--format {options.format}: expected one of {', '.join(FORMATS)}")
    dataset = Dataset.open(options.dataset)
    if dataset.plan().settings.format == ANSWER_FORMAT:
        raise UsageError(f"{options.dataset}: holds answers of text and images, which no format can represent")
    run = ExportRun(options, dataset)
    with stop_on_signals() as stop:
        FORMATS[options.format].export(run, stop)
    return ExportResult(run.rows, run.files, run.size_bytes, run.written, run.skipped, run.digest)
