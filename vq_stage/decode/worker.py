"""One process of the decode job: it decodes the rows of units and writes their files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np

from shared.dataset.columns import ANSWER_KIND
from shared.dataset.dataset import Dataset
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.rows import AnswerRecord, CodeRecord, SequenceRecord
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.prefetch import prefetch_map
from shared.storage.paths import as_path
from vq_stage.decode.answer_pages import write_answer
from vq_stage.decode.options import DecodeOptions
from vq_stage.decode.output_files import output_path, write_output

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

Write = Callable[[], None]  # writes the files of a decoded row
WRITER_THREADS = 2
WRITE_BEHIND = 64  # decoded images that wait to be written


@dataclass(slots=True)
class UnitProgress:
    """Counts of one unit: files written, files already present, and (key, error) of rows that have no image."""

    written: int = 0
    present: int = 0
    invalid: list[tuple[str, str]] = field(default_factory=list)


class DecodeWorker:
    """Turns rows into files; loads the tokenizer for the first row without a file."""

    def __init__(self, options: DecodeOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.dataset = Dataset.open(options.dataset)
        self.out = as_path(options.out)
        settings = self.dataset.plan().settings
        self.codec, self.unit_rows = settings.codec, settings.unit_rows or 1
        self.tokenizer: VisionTokenizer | None = None

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Write all files of each unit; once the stop flag is set, write what is decoded already and return."""
        with job_lock(self.out):
            for task in tasks:
                if task is not None:
                    result = self._decode_unit(task)
                    if self.context.stop.is_set():
                        return
                    yield result

    def _decode_unit(self, task: Task) -> TaskResult:
        began, progress = time.monotonic(), UnitProgress()
        writes = self._decoded(self._rows_without_file(task, progress))
        with closing(prefetch_map(_call, writes, WRITER_THREADS, WRITE_BEHIND, self.context.stop)) as written:
            for _ in written:
                progress.written += 1
                self.context.report_progress(task.unit, 1)
        return TaskResult(
            task,
            rows=progress.written,
            resumed_rows=progress.present,
            invalid=() if task.subset else tuple(progress.invalid),
            elapsed_s=time.monotonic() - began,
        )

    def _rows_without_file(self, task: Task, progress: UnitProgress) -> Iterator[CodeRecord]:
        """Yield the rows to decode; count the others."""
        for row in self.dataset.rows(self.dataset.record(task.unit)):
            if task.subset and row.src_index not in task.subset:
                continue
            if error := _error_of(row, task):
                progress.invalid.append((row.key, error))
            elif output_path(self.out, row, self.options.formats, self.codec).is_file():
                progress.present += 1
            else:
                yield row
                continue
            self.context.report_progress(task.unit, 1)

    def _decoded(self, rows: Iterable[CodeRecord]) -> Iterator[Write]:
        """Decode rows until the stop flag is set; yield what writes the files of each."""
        for (kind, (_, h, w)), group in groupby(rows, key=lambda row: (row.kind, row.codes_THW.shape)):
            tokenizer = self._loaded_tokenizer()
            size = 1
            if kind == "image":
                size = self.options.batch_pixels // (h * w * tokenizer.spatial_factor**2)
                size = max(1, min(size, self.unit_rows))
            while batch := list(islice(group, size)):
                yield from self._decoded_batch(tokenizer, batch, size)
                if self.context.stop.is_set():
                    return

    def _decoded_batch(self, tokenizer: VisionTokenizer, batch: Sequence[CodeRecord], size: int) -> Iterator[Write]:
        """Decode images, as a batch filled up to `size`, or the one video or answer of a batch."""
        row, formats = batch[0], self.options.formats
        if isinstance(row, AnswerRecord):
            pictures = [tokenizer.decode_images(codes_HW[None])[0] for codes_HW in row.images()]
            yield partial(write_answer, self.out, row, pictures, formats)
        elif row.kind == "video":
            yield partial(write_output, self.out, row, tokenizer.decode_video(row.codes_THW), formats, self.codec)
        else:
            for row, pixels_HWC in zip(batch, _decode_images(tokenizer, batch, size)):
                yield partial(write_output, self.out, row, pixels_HWC, formats, self.codec)

    def _loaded_tokenizer(self) -> VisionTokenizer:
        if self.tokenizer is None:
            from vq_stage.tokenizer import VisionTokenizer

            options = self.options
            self.tokenizer = VisionTokenizer.from_pretrained(
                options.vision_tokenizer, options.device, options.dtype, options.backend, options.kernels
            )
        return self.tokenizer


def _error_of(row: CodeRecord, task: Task) -> str | None:
    """Return why a row has nothing to show, None if it has an image, a video or an answer."""
    if row.src_index in task.poison:
        return f"{WORKER_DIED}: the worker died each time it reached this row"
    if not row.has_grid and row.kind != ANSWER_KIND:
        return (row.error if isinstance(row, SequenceRecord) else None) or "no image"
    return None


def _decode_images(tokenizer: VisionTokenizer, batch: Sequence[CodeRecord], size: int) -> np.ndarray:
    """Decode a batch of images, filled up to `size`, to (size, H, W, 3)."""
    codes = np.concatenate([row.codes_THW for row in batch])
    padding = np.repeat(codes[-1:], size - len(batch), axis=0)
    return tokenizer.decode_images(np.concatenate([codes, padding]))


def _call(write: Write) -> None:
    write()
