"""The decode job: code shards to image and video files, named by key.

The way of one image: record → batch of one size → pixels → encoded file, written whole or not at all.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.rows import CodeRecord
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.jobs.engines import EngineOptions, run_units
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.prefetch import prefetch_map
from shared.jobs.signals import stop_on_signals
from shared.storage.atomic import create_file
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.paths import absolute, as_path, names_in
from vq_stage.decode.output_files import CLAIMS_NAME, RECORD_NAME, MediaFormats
from vq_stage.model.config import VQConfig
from vq_stage.model.weights import EMBEDDED_TOKENIZER, codec_fingerprint

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

WRITERS, WRITE_BEHIND = 2, 64


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """Settings of a decode job."""

    dataset: str
    out: str
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    formats: MediaFormats = field(default_factory=MediaFormats)
    batch_pixels: int = 512 * 512
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        if self.batch_pixels < 1:
            raise UsageError(f"--batch-pixels {self.batch_pixels}: expected at least 1")

    def for_workers(self) -> DecodeOptions:
        """The same job, told to processes that may have been started elsewhere."""
        return replace(
            self,
            dataset=absolute(self.dataset),
            out=absolute(self.out),
            vision_tokenizer=absolute(self.vision_tokenizer),
        )


@dataclass(frozen=True, slots=True)
class DecodeResult:
    """Files written by this run, files that were there already, and sequences that are no picture (key, error)."""

    written: int
    skipped: int
    invalid: tuple[tuple[str, str], ...] = ()


def check_codec(dataset: Dataset, vision_tokenizer: str | Path) -> None:
    """Raises ConfigMismatchError, before a model loads, if the codes were made by another tokenizer.

    Generated codes may name none, if the language model's checkpoint did not: then the codebook's size must do.
    """
    codec = dataset.plan().settings.codec
    expected, size = codec.fingerprint, VQConfig.from_directory(vision_tokenizer).codebook_size
    if expected is None and codec.codebook_size != size:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: codebook of {size}, but {dataset.root} holds codes of one of {codec.codebook_size}"
        )
    found = codec_fingerprint(vision_tokenizer)
    if expected is not None and found != expected:
        raise ConfigMismatchError(
            f"{vision_tokenizer}: tokenizer {found[:12]}, but {dataset.root} holds codes of {expected[:12]};"
            " give that one by --vision-tokenizer"
        )


def decode(options: DecodeOptions) -> DecodeResult:
    """Decodes every committed row that has no file yet; the same call resumes.

    Raises ConfigMismatchError if the tokenizer is not the dataset's or `out` holds pictures of another dataset.
    """
    dataset, out = Dataset.open(options.dataset), as_path(options.out)
    check_codec(dataset, options.vision_tokenizer)
    with stop_on_signals() as stop, job_lock(out, partial(_sweep, out) if options.engine.rank_count == 1 else None):
        _claim_directory(dataset, options, out)
        bar = tqdm(unit="image", desc="decode", disable=None)
        worker = partial(DecodeWorker, options.for_workers())
        run = run_units(DecodeUnits.of(dataset, out), worker, options.engine, stop, bar)
    return DecodeResult(run.rows, run.resumed_rows, tuple(sorted(run.invalid)))


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


class DecodeWorker:
    """Turns rows into files; loads the tokenizer when the first row without a file comes."""

    def __init__(self, options: DecodeOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.dataset = Dataset.open(options.dataset)
        self.out = as_path(options.out)
        self.unit_rows = self.dataset.plan().settings.unit_rows or 1
        self.tokenizer: VisionTokenizer | None = None

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Files of a unit are all written when it is done, or what of it is decoded once the stop flag is set."""
        with job_lock(self.out):
            for task in tasks:
                if task is not None:
                    done = self._decode_unit(task)
                    if self.context.stop.is_set():
                        return
                    yield done

    def _decode_unit(self, task: Task) -> TaskResult:
        began, kept, written = time.monotonic(), 0, 0
        invalid: list[tuple[str, str]] = []

        def missing() -> Iterator[CodeRecord]:
            nonlocal kept
            for row in self.dataset.rows(self.dataset.record(task.unit)):
                if task.subset and row.src_index not in task.subset:
                    continue
                if problem := _problem(row, task):
                    invalid.append((row.key, problem))
                elif self.options.formats.path(self.out, row).is_file():
                    kept += 1
                else:
                    yield row
                    continue
                self.context.report_progress(task.unit, 1)

        save = partial(_save, self.options.formats, self.out)
        with closing(prefetch_map(save, self._decoded(missing()), WRITERS, WRITE_BEHIND)) as saved:
            for _ in saved:
                written += 1
                self.context.report_progress(task.unit, 1)
        elapsed_s = time.monotonic() - began
        return TaskResult(task, written, kept, invalid=() if task.subset else tuple(invalid), elapsed_s=elapsed_s)

    def _decoded(self, rows: Iterable[CodeRecord]) -> Iterator[tuple[CodeRecord, np.ndarray]]:
        """Rows and their pixels, until the stop flag is set."""
        for (kind, (_, h, w)), group in groupby(rows, key=lambda row: (row.kind, row.codes_THW.shape)):
            tokenizer = self._loaded()
            size = 1
            if kind == "image":
                size = self.options.batch_pixels // (h * w * tokenizer.spatial_factor**2)
                size = max(1, min(size, self.unit_rows))
            while batch := list(islice(group, size)):
                yield from zip(batch, _pixels(tokenizer, batch, size))
                if self.context.stop.is_set():
                    return

    def _loaded(self) -> VisionTokenizer:
        if self.tokenizer is None:
            from vq_stage.tokenizer import VisionTokenizer

            options = self.options
            self.tokenizer = VisionTokenizer.from_pretrained(
                options.vision_tokenizer, options.device, options.dtype, options.backend
            )
        return self.tokenizer


def _problem(row: CodeRecord, task: Task) -> str | None:
    """Why a row gives no file, if it gives none."""
    if row.src_index in task.poison:
        return f"{WORKER_DIED}: the worker died each time it came to this row"
    if not row.has_grid:
        return getattr(row, "error", None) or "no image"
    return None


def _pixels(tokenizer: VisionTokenizer, batch: Sequence[CodeRecord], size: int) -> Iterable[np.ndarray]:
    """Images (H, W, 3) of a batch filled up to its size, or the frames (T, H, W, 3) of one video."""
    if batch[0].kind == "video":
        return [tokenizer.decode_video(batch[0].codes_THW)]
    codes = np.concatenate([row.codes_THW for row in batch])
    padding = np.repeat(codes[-1:], size - len(batch), axis=0)
    return tokenizer.decode_images(np.concatenate([codes, padding]))


def _save(formats: MediaFormats, out: Path, decoded: tuple[CodeRecord, np.ndarray]) -> None:
    formats.write(out, *decoded)


def _sweep(out: Path) -> None:
    """Removes what killed jobs left; only called while no other job decodes into `out`."""
    for path in out.rglob("*.tmp") if (out / RECORD_NAME).is_file() else out.glob(f"{RECORD_NAME}.*.tmp"):
        if re.search(r"\.\d+-[0-9a-f]{8}\.tmp$", path.name):
            path.unlink(missing_ok=True)
    for name in names_in(out / CLAIMS_NAME):
        (out / CLAIMS_NAME / name).unlink(missing_ok=True)
    if (out / CLAIMS_NAME).is_dir():
        (out / CLAIMS_NAME).rmdir()


def _claim_directory(dataset: Dataset, options: DecodeOptions, out: Path) -> None:
    """Marks `out` as this dataset's, or refuses one that holds something else under the same names."""
    path = out / RECORD_NAME
    if not path.is_file() and (others := [name for name in names_in(out) if name != ".lock"]):
        raise UsageError(f"{out}: holds {others[0]!r} and is not a folder of decoded pictures; use an empty folder")
    belongs: dict[str, Any] = {"plan_sha256": dataset.plan().sha256, **options.formats.recorded()}
    if create_file(path, canonical_json(belongs).encode()):
        return
    try:
        recorded = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: damaged: {error}; delete it to decode into this folder again") from error
    if diff := settings_diff(recorded, belongs):
        raise ConfigMismatchError(
            f"{out} holds pictures of another dataset or format:\n  " + "\n  ".join(diff) + "\nuse another folder"
        )
