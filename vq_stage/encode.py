"""The encode job: a source of images to a dataset of code shards.

The way of one image: source → plan (size, unit) → read and resize ahead of the device → batch of one size →
codes → record → committed part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from shared.ahead import map_ahead
from shared.dataset import Dataset, Refusal
from shared.device import setup_device
from shared.errors import JobStoppedError, UsageError
from shared.job import UnitQueue, check_numerics
from shared.locks import job_lock
from shared.plan import Plan, Unit, UnitSize, freeze_plan
from shared.records import CodeRecord
from shared.signals import StopFlag, stop_on_signals
from vq_stage.config import TEMPORAL_FACTOR, VQConfig
from vq_stage.planning import plan_units
from vq_stage.preprocess import Preprocessing
from vq_stage.quality import psnr_db, ssim
from vq_stage.reading import InputReader, Prepared
from vq_stage.sources import Source, list_source
from vq_stage.weights import EMBEDDED_TOKENIZER, codec_fingerprint

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer

READ_AHEAD = 64  # images read and resized before the device needs them


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Settings of an encode job. `batch_pixels` bounds a batch; `quality_samples` are decoded again a unit."""

    source: str
    dataset: str
    vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    unit_rows: int = 256
    batch_pixels: int = 512 * 512
    quality_samples: int = 1
    readers: int = 2
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    allow_numerics_change: bool = False
    max_refused_in_a_row: int = 1000

    def __post_init__(self) -> None:
        for name in ("unit_rows", "batch_pixels", "readers", "max_refused_in_a_row"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.quality_samples < 0:
            raise UsageError(f"--quality-samples {self.quality_samples}: expected at least 0")

    def recorded(self) -> dict[str, Any]:
        """The settings that decide the codes, with the tokenizer's fingerprint; needs no MindSpore."""
        config = VQConfig.from_directory(self.vision_tokenizer)
        codec = {
            "fingerprint": codec_fingerprint(self.vision_tokenizer),
            "codebook_size": config.codebook_size,
            "spatial_factor": config.spatial_factor,
            "temporal_factor": TEMPORAL_FACTOR,
        }
        return {"codec": codec, "preprocessing": self.preprocessing.recorded(), "units": {"rows": self.unit_rows}}


@dataclass(frozen=True, slots=True)
class EncodeResult:
    """What this run of the job did, and what the dataset lacks still (units that other jobs work on)."""

    rows: int
    quarantined: int
    units: int
    units_missing: int
    inputs_added_since: int
    elapsed_s: float


def encode(options: EncodeOptions) -> EncodeResult:
    """Encodes what is not encoded yet; the same call resumes.

    Raises ConfigMismatchError, before a model loads, if the dataset was begun with other settings;
    Interrupted after SIGINT or SIGTERM, with everything encoded so far kept.
    """
    began = time.monotonic()
    settings = options.recorded()
    source = list_source(options.source)
    dataset = Dataset(options.dataset)
    with stop_on_signals() as stop, job_lock(dataset.root, dataset.sweep):
        plan = _open_plan(options, settings, source, dataset, stop)
        missing = dataset.missing_units(plan)
        with UnitQueue(dataset, plan, stop) as queue:
            if missing:
                EncodeJob(options, source, queue).run(missing)
        left = len(dataset.missing_units(plan))
        if left:
            stop.raise_if_set(f"{len(queue.committed)} units committed")
        else:
            dataset.write_manifest(plan)
    return EncodeResult(
        rows=sum(record.rows for record in queue.committed),
        quarantined=sum(sum(record.quarantined.values()) for record in queue.committed),
        units=len(queue.committed),
        units_missing=left,
        inputs_added_since=max(0, len(source.items) - plan.input_count),
        elapsed_s=time.monotonic() - began,
    )


def _open_plan(
    options: EncodeOptions, settings: dict[str, Any], source: Source, dataset: Dataset, stop: StopFlag
) -> Plan:
    if not dataset.plan_path.is_file():
        units = plan_units(
            source, options.preprocessing, options.unit_rows, options.readers, options.max_refused_in_a_row, stop
        )
        freeze_plan(dataset.plan_path, units, settings, len(source.items))
    plan = dataset.plan()
    plan.check_settings(settings, dataset.root)
    return plan


class EncodeJob:
    """One run over the missing units of a plan."""

    def __init__(self, options: EncodeOptions, source: Source, queue: UnitQueue):
        self.options = options
        self.queue = queue
        self.dataset, self.plan, self.stop = queue.dataset, queue.plan, queue.stop
        self.reader = InputReader(source, options.preprocessing)
        self.tokenizer: VisionTokenizer | None = None
        self.numerics: dict[str, Any] = {}
        self.refused_in_a_row = 0

    def run(self, missing: Sequence[int]) -> None:
        """Encodes and commits the missing units that no other job works on."""
        sizes = self.plan.sizes()
        if any(sizes[number].height for number in missing):  # units of refused inputs need no model
            self._load_tokenizer(next(size for size in sizes if size.height))
        done = self.plan.input_count - sum(sizes[number].inputs for number in missing)
        tasks = ((unit, planned) for unit in self.queue.take(missing) for planned in unit.inputs)
        prepared = map_ahead(self.reader.prepare, tasks, self.options.readers, READ_AHEAD)
        bar = tqdm(total=self.plan.input_count, initial=done, unit="image", desc="encode", disable=None)
        with bar, closing(prepared):
            for unit, inputs in groupby(prepared, key=lambda item: item.unit):
                self._encode_unit(unit, inputs, bar)

    def _load_tokenizer(self, canary_size: UnitSize) -> None:
        """Refuses other numerics before the model loads, and a device that computes other codes after."""
        options = self.options
        device = setup_device(options.device, options.dtype)
        self.numerics = {**device.numerics(), "backend": options.backend, "batch_pixels": options.batch_pixels}
        if not options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)
        from vq_stage.canary import check_canary
        from vq_stage.tokenizer import VisionTokenizer

        self.tokenizer = VisionTokenizer.from_pretrained(
            options.vision_tokenizer, options.device, options.dtype, options.backend
        )
        batch = self._batch_size(canary_size)
        check_canary(self.dataset, self.tokenizer, batch, canary_size.height, canary_size.width)

    def _batch_size(self, size: Unit | UnitSize) -> int:
        """Images a batch. Always filled up to it, so that each size is compiled once."""
        return max(1, min(self.options.batch_pixels // (size.height * size.width), self.options.unit_rows))

    def _encode_unit(self, unit: Unit, inputs: Iterable[Prepared], bar: tqdm) -> None:
        self.queue.begin(unit.unit)
        work = UnitWork(unit, self.options.quality_samples)
        if unit.height:
            work.restore(self.dataset.load_partial(unit.unit, self.plan, self.numerics))
            bar.update(len(work.records))
        accepted = self._accepted(work, inputs, bar)
        while batch := list(islice(accepted, self._batch_size(unit) if unit.height else 1)):
            self._encode_batch(work, batch)
            bar.update(len(batch))
            if self.stop.is_set():
                self.dataset.save_partial(unit.unit, work.sorted_records(), work.quality, self.plan, self.numerics)
                self.stop.raise_if_set(
                    f"{len(self.queue.committed)} units committed, {len(work.records)} rows of the next kept"
                )
        numerics = self.numerics if unit.height else {}
        self.queue.done(
            self.dataset.commit(unit.unit, work.sorted_records(), work.refusals, self.plan, numerics, work.quality)
        )

    def _accepted(self, work: UnitWork, inputs: Iterable[Prepared], bar: tqdm) -> Iterator[Prepared]:
        """Inputs that have pixels and no record yet; the others are noted as refused."""
        for prepared in inputs:
            if prepared.planned.src_index in work.records:
                continue
            if prepared.refusal is None:
                self.refused_in_a_row = 0
                yield prepared
            else:
                work.refusals.append(prepared.refusal)
                bar.update()
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
        assert self.tokenizer is not None, "a unit with a size has a tokenizer"
        pixels = np.stack([prepared.pixels_HWC for prepared in batch])
        padding = np.repeat(pixels[-1:], self._batch_size(work.unit) - len(batch), axis=0)
        codes = self.tokenizer.encode_images(np.concatenate([pixels, padding]))
        for prepared, codes_HW in zip(batch, codes):
            work.records[prepared.planned.src_index] = prepared.record(codes_HW[None])
            if prepared.planned.src_index in work.sampled:
                restored = self.tokenizer.decode_images(codes_HW[None])[0]
                work.quality.append(
                    {
                        "key": prepared.planned.key,
                        "psnr_db": round(psnr_db(prepared.pixels_HWC, restored), 3),
                        "ssim": round(ssim(prepared.pixels_HWC, restored), 4),
                    }
                )


class UnitWork:
    """What has been done of one unit: records by `src_index`, refusals, quality samples."""

    def __init__(self, unit: Unit, quality_samples: int):
        self.unit = unit
        self.records: dict[int, CodeRecord] = {}
        self.refusals: list[Refusal] = []
        self.quality: list[dict[str, Any]] = []
        count, samples = len(unit.inputs), min(len(unit.inputs), quality_samples)
        self.sampled = {unit.inputs[index * count // samples].src_index for index in range(samples)}

    def restore(self, partial: tuple[list[CodeRecord], list[dict[str, Any]]]) -> None:
        records, self.quality = partial
        self.records = {record.src_index: record for record in records}

    def sorted_records(self) -> list[CodeRecord]:
        return [self.records[index] for index in sorted(self.records)]
