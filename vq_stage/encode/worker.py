"""One process of the encode job: it reads, encodes and commits units."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.partial import load_partial, save_partial
from shared.dataset.plan import Unit, UnitSize
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.device import setup_device
from shared.errors import Interrupted
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.prefetch import TimeLimit, prefetch_map
from shared.jobs.units import check_numerics
from shared.storage.paths import as_path
from vq_stage.encode.input_reader import InputReader, PreparedInput, ReadTask
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.quality import check_canary, reconstruction_quality
from vq_stage.encode.refusal_limit import RefusalLimit
from vq_stage.sources.planned_source import PlannedSource

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

READ_AHEAD = 64  # inputs that are read and resized before the device needs them
READ_AHEAD_BYTES = 512 << 20  # of pixels; a clip of 16 frames of 1024² takes 48 MB


class EncodeWorker:
    """Reads, encodes and commits the units of one dataset; loads the tokenizer unless all inputs are refused."""

    def __init__(self, options: EncodeOptions, source_root: str, context: WorkerContext):
        self.options, self.context = options, context
        self.dataset = Dataset.open(options.dataset)
        self.plan = self.dataset.plan()
        self.codec = self.plan.settings.codec
        source = PlannedSource(as_path(source_root))
        self.reader = InputReader(source, self.codec, options.preprocessing, options.sampling)
        self.refusal_limit = RefusalLimit(options.max_refused_in_a_row, "this unit was not committed")
        self.tokenizer: VisionTokenizer | None = None
        self.numerics: dict[str, Any] = {}
        sizes = self.plan.sizes()
        self.max_ahead = max_read_ahead(sizes, options.reader_threads)
        if any(sizes[number].height for number in self.dataset.missing_units(self.plan)):
            self._load_tokenizer(next(size for size in sizes if size.height))

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Encode units in the order of their tasks; the inputs of the next one are read meanwhile.

        Once the stop flag is set, save what is finished of the unit in hand and return.
        """
        with job_lock(self.dataset.root), suppress(Interrupted):
            yield from self._results(tasks)

    def _results(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        started: deque[tuple[Task, Unit, int]] = deque()

        def read_tasks() -> Iterator[ReadTask | None]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                unit = self.plan.unit(task.unit)
                chosen = [item for item in unit.inputs if not task.subset or item.src_index in task.subset]
                started.append((task, unit, len(chosen)))
                yield from (ReadTask(unit, item, item.src_index in task.poison) for item in chosen)

        with closing(self.reader), closing(self._prepared(read_tasks())) as prepared:
            ready = (item for item in prepared if item is not None)
            for first in ready:
                task, unit, count = started.popleft()
                yield self._encode_unit(task, unit, chain([first], islice(ready, count - 1)))

    def _prepared(self, tasks: Iterator[ReadTask | None]) -> Generator[PreparedInput | None, None, None]:
        options, reader = self.options, self.reader
        limit = TimeLimit(options.read_timeout_s, reader.give_up)
        return prefetch_map(reader.prepare, tasks, options.reader_threads, self.max_ahead, self.context.stop, limit)

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        """Load the tokenizer and check it. Raises ConfigMismatchError for other numerics before the model loads."""
        options = self.options
        device = setup_device(options.device, options.dtype, kernels=options.kernels)
        self.numerics = {**device.numerics(), "backend": options.backend, "batch_pixels": options.batch_pixels}
        if not options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)
        from vq_stage.tokenizer import VisionTokenizer

        self.tokenizer = VisionTokenizer.from_pretrained(
            options.vision_tokenizer, options.device, options.dtype, options.backend, options.kernels
        )
        batch = options.images_per_batch(canary_size.height, canary_size.width)
        check_canary(self.dataset, self.tokenizer, batch, canary_size.height, canary_size.width)

    def _encode_unit(self, task: Task, unit: Unit, inputs: Iterable[PreparedInput]) -> TaskResult:
        """Encode the requested inputs of a unit. Raises Interrupted, after saving what is finished, to stop."""
        began = time.monotonic()
        work = UnitWork(unit, self.options.quality_samples)
        if unit.height:
            work.restore(load_partial(self.dataset, self.plan, unit.unit, self.numerics))
            self.context.report_progress(unit.unit, len(work.records))
        resumed_rows = len(work.records)
        try:
            self._encode_inputs(work, inputs)
        except Interrupted:
            self._save(work)
            raise
        if task.subset:
            self._save(work)
        else:
            self.dataset.commit(work.result(self.numerics if unit.height else {}), self.plan)
        return TaskResult(
            task,
            rows=len(work.records) - resumed_rows,
            resumed_rows=resumed_rows,
            quarantined=len(work.refusals),
            elapsed_s=time.monotonic() - began,
        )

    def _encode_inputs(self, work: UnitWork, inputs: Iterable[PreparedInput]) -> None:
        accepted = self._accepted(work, inputs)
        while batch := list(islice(accepted, self._inputs_per_batch(work.unit))):
            self._encode_batch(work, batch)
            self.context.report_progress(work.unit.unit, len(batch))
            self.context.stop.raise_if_set("finished rows are kept")

    def _save(self, work: UnitWork) -> None:
        save_partial(self.dataset, self.plan, work.result(self.numerics))

    def _accepted(self, work: UnitWork, inputs: Iterable[PreparedInput]) -> Iterator[PreparedInput]:
        """Yield the inputs that have pixels and no record yet; add the refusals of the others."""
        for prepared in inputs:
            if prepared.planned.src_index in work.records:
                continue
            refusal = prepared.refusal
            if refusal is None:
                self.refusal_limit.count_accepted()
                yield prepared
                continue
            work.refusals.append(refusal)
            self.context.report_progress(work.unit.unit, 1)
            if prepared.planned.refused_reason is None:
                self.refusal_limit.count_refused(refusal.uri, refusal.reason, refusal.detail)

    def _inputs_per_batch(self, unit: Unit) -> int:
        """Return how many inputs are encoded at once; the tokenizer itself batches the frames of clips."""
        if not unit.height:
            return 1
        return max(1, self.options.images_per_batch(unit.height, unit.width) // unit.frames)

    def _encode_batch(self, work: UnitWork, batch: Sequence[PreparedInput]) -> None:
        for prepared, codes_THW in zip(batch, self._codes(work.unit, [prepared.pixels for prepared in batch])):
            index, key = prepared.planned.src_index, prepared.planned.key
            work.records[index] = prepared.record(codes_THW)
            if index in work.sampled:
                decoded = self._decoded(work.unit, codes_THW)
                work.quality.append({"key": key, **reconstruction_quality(prepared.pixels, decoded)})

    def _codes(self, unit: Unit, pixels: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Encode images (H, W, 3) or clips (T, H, W, 3) of one size to codes (t, h, w) each.

        Batches are always filled up, so that each size is compiled once.
        """
        assert self.tokenizer is not None, "a unit with a size has a tokenizer"
        images = self.options.images_per_batch(unit.height, unit.width)
        if unit.frames > 1:
            frames_THWC = np.concatenate(pixels)
            codes_THW = self.tokenizer.encode_video(frames_THWC, max(1, images // self.codec.temporal_factor))
            return np.split(codes_THW, len(pixels))
        padding = [pixels[-1]] * (images - len(pixels))
        return list(self.tokenizer.encode_images(np.array([*pixels, *padding]))[: len(pixels), None])

    def _decoded(self, unit: Unit, codes_THW: np.ndarray) -> np.ndarray:
        """Return the pixels that codes decode to: (H, W, 3), or for a clip (T, H, W, 3)."""
        assert self.tokenizer is not None, "a unit with a size has a tokenizer"
        if unit.frames > 1:
            return self.tokenizer.decode_video(codes_THW)
        return self.tokenizer.decode_images(codes_THW)[0]


class UnitWork:
    """What is finished of one unit: records by `src_index`, refusals and quality samples.

    `sampled` holds the `src_index` of `quality_samples` inputs, spread evenly over the unit, whose quality is measured.
    """

    def __init__(self, unit: Unit, quality_samples: int):
        self.unit = unit
        self.records: dict[int, CodeRecord] = {}
        self.refusals: list[Refusal] = []
        self.quality: list[Mapping[str, Any]] = []
        count, samples = len(unit.inputs), min(len(unit.inputs), quality_samples)
        self.sampled = {unit.inputs[index * count // samples].src_index for index in range(samples)}

    def restore(self, partial: UnitResult) -> None:
        """Continue with what an interrupted job had finished."""
        self.quality = list(partial.quality)
        self.records = {record.src_index: record for record in partial.records}

    def result(self, numerics: Mapping[str, Any]) -> UnitResult:
        """Return everything in the order of the unit's inputs, so that the bytes do not depend on the order of work."""
        order = {planned.key: index for index, planned in enumerate(self.unit.inputs)}
        return UnitResult(
            self.unit.unit,
            records=[self.records[index] for index in sorted(self.records)],
            refusals=sorted(self.refusals, key=lambda refusal: refusal.src_index),
            numerics=numerics,
            quality=sorted(self.quality, key=lambda sample: order[sample["key"]]),
        )


def max_read_ahead(sizes: Sequence[UnitSize], reader_threads: int) -> int:
    """Return how many inputs to keep ready: fewer if the plan has long clips, but at least two per thread."""
    largest_bytes = max((3 * size.frames * size.height * size.width for size in sizes), default=0)
    return max(2 * reader_threads, min(READ_AHEAD, READ_AHEAD_BYTES // max(1, largest_bytes)))
