"""What a process of the encode job does: reads, encodes and commits units."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.codec import TEMPORAL_FACTOR
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial, save_partial
from shared.dataset.plan import Unit, UnitSize
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.device import setup_device
from shared.errors import JobStoppedError
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.numerics import check_numerics
from shared.jobs.prefetch import prefetch_map
from vq_stage.encode.input_reader import InputReader, Prepared
from vq_stage.encode.metrics import psnr_db, ssim
from vq_stage.encode.options import EncodeOptions
from vq_stage.sources.open_source import open_source

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

READ_AHEAD = 64  # inputs read and resized before the device needs them
READ_AHEAD_BYTES = 512 << 20  # of pixels; a clip of sixteen frames of 1024² has 48 MB


class EncodeWorker:
    """Reads, encodes and commits units of one dataset."""

    def __init__(self, options: EncodeOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.dataset = Dataset.open(options.dataset)
        self.plan = self.dataset.plan()
        self.reader = InputReader(open_source(options.source), options.preprocessing, options.sampling)
        self.tokenizer: VisionTokenizer | None = None
        self.numerics: dict[str, Any] = {}
        self.refused_in_a_row = 0
        sizes = self.plan.sizes()
        self.ahead = read_ahead(sizes, options.reader_threads)
        if any(sizes[number].height for number in self.dataset.missing_units(self.plan)):
            self._load_tokenizer(next(size for size in sizes if size.height))  # refused inputs need no model

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Units in the order of their tasks; the inputs of the next are read while one is encoded."""
        begun: deque[tuple[Task, Unit, int]] = deque()

        def inputs() -> Iterator[Any]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                unit = self.plan.unit(task.unit)
                chosen = [item for item in unit.inputs if not task.subset or item.src_index in task.subset]
                begun.append((task, unit, len(chosen)))
                yield from ((unit, item, item.src_index in task.poison) for item in chosen)

        with (
            job_lock(self.dataset.root),
            closing(prefetch_map(self.reader.prepare, inputs(), self.options.reader_threads, self.ahead)) as prepared,
        ):
            ready = (item for item in prepared if item is not None)
            for first in ready:
                task, unit, count = begun.popleft()
                done = self._encode_unit(task, unit, chain([first], islice(ready, count - 1)))
                if done is None:
                    return
                yield done

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        """Refuses other numerics before the model loads, and a device that computes other codes after."""
        options = self.options
        device = setup_device(options.device, options.dtype)
        self.numerics = {**device.numerics(), "backend": options.backend, "batch_pixels": options.batch_pixels}
        if not options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)
        from vq_stage.encode.canary import check_canary
        from vq_stage.tokenizer import VisionTokenizer

        self.tokenizer = VisionTokenizer.from_pretrained(
            options.vision_tokenizer, options.device, options.dtype, options.backend
        )
        batch = self._images_a_batch(canary_size.height, canary_size.width)
        check_canary(self.dataset, self.tokenizer, batch, canary_size.height, canary_size.width)

    def _images_a_batch(self, height: int, width: int) -> int:
        """Images a batch. Always filled up to it, so that each size is compiled once."""
        return max(1, min(self.options.batch_pixels // (height * width), self.options.unit_rows))

    def _batch_size(self, unit: Unit) -> int:
        """Inputs taken from the reading threads at once; the frames of clips are batched by the tokenizer."""
        if not unit.height:
            return 1
        return max(1, self._images_a_batch(unit.height, unit.width) // unit.frames)

    def _encode_unit(self, task: Task, unit: Unit, inputs: Iterable[Prepared]) -> TaskResult | None:
        """Encodes what is asked of a unit. None once the stop flag is set: then what was done of it is kept."""
        began = time.monotonic()
        work = UnitWork(unit, self.options.quality_samples)
        if unit.height:
            work.restore(load_partial(self.dataset, self.plan, unit.unit, self.numerics))
            self.context.report_progress(unit.unit, len(work.records))
        kept = len(work.records)
        accepted = self._accepted(work, inputs)
        while batch := list(islice(accepted, self._batch_size(unit))):
            self._encode_batch(work, batch)
            self.context.report_progress(unit.unit, len(batch))
            if self.context.stop.is_set():
                self._keep(work)
                return None
        if task.subset:
            self._keep(work)
        else:
            numerics = self.numerics if unit.height else {}
            records, refusals = work.sorted_records(), work.sorted_refusals()
            self.dataset.commit(
                UnitResult(unit.unit, records, refusals=refusals, numerics=numerics, quality=work.sorted_quality()),
                self.plan,
            )
        rows, elapsed_s = len(work.records) - kept, time.monotonic() - began
        return TaskResult(task, rows, kept, len(work.refusals), elapsed_s=elapsed_s)

    def _keep(self, work: UnitWork) -> None:
        save_partial(
            self.dataset,
            self.plan,
            UnitResult(work.unit.unit, work.sorted_records(), numerics=self.numerics, quality=work.quality),
        )

    def _accepted(self, work: UnitWork, inputs: Iterable[Prepared]) -> Iterator[Prepared]:
        """Inputs that have pixels and no record yet; the others are noted as refused."""
        for prepared in inputs:
            if prepared.planned.src_index in work.records:
                continue
            if prepared.refusal is None:
                self.refused_in_a_row = 0
                yield prepared
            else:
                work.refusals.append(prepared.refusal)
                self.context.report_progress(work.unit.unit, 1)
                self._count_refusal(prepared)

    def _count_refusal(self, prepared: Prepared) -> None:
        if prepared.planned.refused_reason is None:
            self.refused_in_a_row += 1
        if self.refused_in_a_row > self.options.max_refused_in_a_row:
            raise JobStoppedError(
                f"more than {self.options.max_refused_in_a_row} inputs in a row refused, the last:"
                f" {prepared.planned.uri}: {prepared.refusal}; this unit was not committed: mend the source and"
                " run the same command, or raise --max-refused-in-a-row"
            )

    def _encode_batch(self, work: UnitWork, batch: Sequence[Prepared]) -> None:
        for prepared, codes_THW in zip(batch, self._codes(work.unit, [prepared.pixels for prepared in batch])):
            work.records[prepared.planned.src_index] = prepared.record(codes_THW)
            if prepared.planned.src_index in work.sampled:
                restored = self._restored(work.unit, codes_THW)
                work.quality.append({"key": prepared.planned.key, **measured(prepared.pixels, restored)})

    def _codes(self, unit: Unit, pixels: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Codes (t, h, w) of images (H, W, 3) or clips (T, H, W, 3) of one size."""
        assert self.tokenizer is not None, "a unit with a size has a tokenizer"
        images = self._images_a_batch(unit.height, unit.width)
        if unit.frames > 1:
            frames_THWC = np.concatenate(pixels)
            codes_THW = self.tokenizer.encode_video(frames_THWC, max(1, images // TEMPORAL_FACTOR))
            return np.split(codes_THW, len(pixels))
        padding = [pixels[-1]] * (images - len(pixels))
        return list(self.tokenizer.encode_images(np.stack([*pixels, *padding]))[: len(pixels), None])

    def _restored(self, unit: Unit, codes_THW: np.ndarray) -> np.ndarray:
        assert self.tokenizer is not None, "a unit with a size has a tokenizer"
        if unit.frames > 1:
            return self.tokenizer.decode_video(codes_THW)
        return self.tokenizer.decode_images(codes_THW)[0]


def read_ahead(sizes: Sequence[UnitSize], reader_threads: int) -> int:
    """How many inputs to hold ready: fewer if the largest of the plan are long clips, at least two a reader."""
    largest_bytes = max((3 * size.frames * size.height * size.width for size in sizes), default=0)
    return max(2 * reader_threads, min(READ_AHEAD, READ_AHEAD_BYTES // max(1, largest_bytes)))


def measured(pixels: np.ndarray, restored: np.ndarray) -> dict[str, float]:
    """Quality of an image (H, W, 3), or of the frames of a clip (T, H, W, 3) on average."""
    frames = zip(pixels.reshape(-1, *pixels.shape[-3:]), restored.reshape(-1, *pixels.shape[-3:]))
    similar = [ssim(*pair) for pair in frames]
    return {"psnr_db": round(psnr_db(pixels, restored), 3), "ssim": round(float(np.mean(similar)), 4)}


class UnitWork:
    """What has been done of one unit: records by `src_index`, refusals, quality samples."""

    def __init__(self, unit: Unit, quality_samples: int):
        self.unit = unit
        self.records: dict[int, CodeRecord] = {}
        self.refusals: list[Refusal] = []
        self.quality: list[dict[str, Any]] = []
        count, samples = len(unit.inputs), min(len(unit.inputs), quality_samples)
        self.sampled = {unit.inputs[index * count // samples].src_index for index in range(samples)}

    def restore(self, partial: UnitResult) -> None:
        self.quality = [dict(sample) for sample in partial.quality]
        self.records = {record.src_index: record for record in partial.records}

    def sorted_records(self) -> list[CodeRecord]:
        return [self.records[index] for index in sorted(self.records)]

    def sorted_refusals(self) -> list[Refusal]:
        return sorted(self.refusals, key=lambda refusal: refusal.src_index)

    def sorted_quality(self) -> list[dict[str, Any]]:
        """In the order of inputs, in whatever order they were tried."""
        order = {planned.key: place for place, planned in enumerate(self.unit.inputs)}
        return sorted(self.quality, key=lambda sample: order[sample["key"]])
