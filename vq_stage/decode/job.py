"""The decode job: from code shards to image and video files, named by key.

Data flow of one image: record → worker (batch of one size → pixels) → encoded file, written whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.errors import UsageError
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import run_units
from shared.storage.paths import as_path
from vq_stage.decode.codec_check import check_codec
from vq_stage.decode.options import DecodeOptions
from vq_stage.decode.output_files import (
    CLAIMS_NAME,
    check_distinct,
    claim_directory,
    ignores_case,
    sweep_directory,
)
from vq_stage.decode.worker import DecodeWorker


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Files written by this run, files already present, and (key, error) of the rows that have no image.

    `units_left` counts units that other jobs are working on.
    """

    written: int
    skipped: int
    invalid: tuple[tuple[str, str], ...] = ()
    units_left: int = 0

    @property
    def reasons(self) -> Mapping[str, int]:
        """The number of rows without an image by error, the most frequent first."""
        return dict(Counter(error for _, error in self.invalid).most_common())


def decode(options: DecodeOptions) -> DecodeResult:
    """Decode every committed row that has no file yet; the same call resumes.

    Raises ConfigMismatchError if the tokenizer is not the dataset's, or if `out` contains images of another dataset,
    and UsageError if `out` is not a folder of decoded images.
    """
    dataset, out = Dataset.open(options.dataset), as_path(options.out)
    if out.is_file():
        raise UsageError(f"{out}: expected a folder, got a file")
    check_codec(dataset, options.vision_tokenizer)
    sweep = partial(sweep_directory, out) if options.engine.rank_count == 1 else None
    with stop_on_signals() as stop, job_lock(out, sweep):
        claim_directory(out, dataset, options.formats)
        if ignores_case(out):
            check_distinct(out, dataset_keys(dataset))
        bar = tqdm(unit="image", desc="decode", disable=None)
        worker = partial(DecodeWorker, options.for_workers())
        run = run_units(DecodeUnits.of(dataset, out), worker, options.engine, stop, bar)
    return DecodeResult(run.rows, run.resumed_rows, tuple(sorted(run.invalid)), run.units_left)


def dataset_keys(dataset: Dataset) -> Iterator[str]:
    """Yield the keys of all committed rows."""
    for record in dataset.commit_records():
        for batch in dataset.batches(record) if record.rows else ():
            yield from batch.column("key").to_pylist()


@dataclass(frozen=True, slots=True)
class DecodeUnits:
    """All units with rows. The workers find out which rows already have files, so no progress counts as done."""

    dataset: Dataset
    records: Mapping[int, CommitRecord]
    missing: Sequence[int]
    progress_total: int
    claims: Path
    progress_done: int = 0

    @classmethod
    def of(cls, dataset: Dataset, out: Path) -> DecodeUnits:
        records = {record.unit: record for record in dataset.commit_records() if record.rows}
        rows = sum(record.rows for record in records.values())
        return cls(dataset, records, list(records), rows, out / CLAIMS_NAME)

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return tuple(row.src_index for row in self.dataset.rows(self.records[unit]))

    def shape(self, unit: int) -> tuple[int, int]:
        return self.records[unit].height, self.records[unit].width

    def claim_path(self, unit: int) -> Path:
        return self.claims / f"part-{unit:06d}"

    def is_committed(self, unit: int) -> bool:
        return False

    def log(self, unit: int, rows: int, elapsed_s: float) -> None:
        """Keep no log: the files are the record."""
