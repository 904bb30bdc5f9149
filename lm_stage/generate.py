"""The generation job: prompts to a dataset of token sequences (`emu3.seq/1`), which `emu3 decode` turns into pictures.

The way of one prompt: prompt file → plan (size, unit) → token ids → slot of the image generator → codes, journaled
every few rows → record → committed part.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from lm_stage.config import read_config
from lm_stage.journal import Journal
from lm_stage.planning import PromptRenderer, longest_prompt, plan_prompts, planned_prompt, token_counts
from lm_stage.prompts import SPATIAL_FACTOR, PromptDefaults, list_prompts
from lm_stage.sampling import Sampling
from lm_stage.source import EMBEDDED_MODEL, ModelSource
from lm_stage.templates import Templates
from shared.code_index import CodeIndex
from shared.dataset import Dataset, Refusal
from shared.device import setup_device
from shared.errors import CheckpointError, ConfigMismatchError, UsageError
from shared.fingerprint import canonical_json
from shared.job import UnitQueue, check_numerics
from shared.locks import job_lock
from shared.plan import PlannedInput, Unit, freeze_plan
from shared.records import SEQUENCE_FORMAT, CodeRecord, SequenceRecord
from shared.signals import stop_on_signals
from shared.visual_tokens import image_length

if TYPE_CHECKING:
    from lm_stage.image_generator import ImageGenerator, Slot

PUBLISHED_AREA = 720 * 720


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Settings of a generation job. `slots` is the number of images written at once.

    `codec` is the fingerprint of the vision tokenizer whose codes the model writes, if its checkpoint does not say.
    `resume` is how journaled codes of a half-written image are taken in: `replay` gives the codes of an unbroken run,
    `prefill` is faster and may differ where two candidates are near.
    """

    prompts: str
    dataset: str
    model: str = str(EMBEDDED_MODEL)
    images: str | None = None
    ratio: str = "1:1"
    area: int | None = None
    height: int | None = None
    width: int | None = None
    suffix: str = ""
    negative_prompt: str = ""
    guidance_scale: float = 3.0
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    samples: int = 1
    codec: str | None = None
    layout: str | None = None
    unit_rows: int = 64
    slots: int = 8
    journal_rows: int = 4
    resume: str = "replay"
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    allow_numerics_change: bool = False

    def __post_init__(self) -> None:
        for name in ("unit_rows", "slots", "journal_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.resume not in ("replay", "prefill"):
            raise UsageError(f"--resume {self.resume}: expected replay or prefill")
        if not 0 <= self.guidance_scale < float("inf"):
            raise UsageError(f"--guidance-scale {self.guidance_scale}: expected a number from 0; 1 is no guidance")

    def defaults(self) -> PromptDefaults:
        """Of prompts that do not give their own; the area is the model's unless one is asked for."""
        area = self.area or read_config(self.model).get("image_area", PUBLISHED_AREA)
        if not isinstance(area, int):
            raise CheckpointError(f"{self.model}: config.json: image_area {area!r}: expected a whole number of pixels")
        return PromptDefaults(
            area,
            self.ratio,
            self.height,
            self.width,
            self.negative_prompt,
            self.seed,
            self.samples,
            is_size_given=bool(self.area or self.height or self.ratio != "1:1"),
        )


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What this run of the job did, and what the dataset lacks still (units that other jobs work on)."""

    rows: int
    quarantined: int
    units_missing: int
    elapsed_s: float


def generate(options: GenerateOptions) -> GenerateResult:
    """Generates what is not generated yet; the same call resumes, inside an image too.

    Raises ConfigMismatchError, before the model loads, if the dataset was begun with other settings;
    Interrupted after SIGINT or SIGTERM, with every row of codes kept.
    """
    began = time.monotonic()
    source = ModelSource.from_directory(options.model, options.layout, options.codec)
    prompts = list_prompts(options.prompts, options.defaults())
    images = CodeIndex(Dataset.open(options.images)) if options.images else None
    settings = _recorded(options, source, images)
    templates = Templates(source.text_tokenizer, source.layout)
    renderer = PromptRenderer(templates, options.suffix, options.guidance_scale != 1.0, images)
    dataset = Dataset(options.dataset)
    with stop_on_signals() as stop, job_lock(dataset.root, dataset.sweep):
        if not dataset.plan_path.is_file():
            units = plan_prompts(prompts, renderer, source.config.max_position_embeddings, options.unit_rows)
            freeze_plan(dataset.plan_path, units, settings, len(prompts))
        plan = dataset.plan()
        plan.check_settings(settings, dataset.root)
        missing = dataset.missing_units(plan)
        with UnitQueue(dataset, plan, stop) as queue:
            if missing:
                GenerateJob(options, source, renderer, queue).run(missing)
        left = len(dataset.missing_units(plan))
        if left:
            stop.raise_if_set(f"{len(queue.committed)} units committed, the codes of images under way kept")
        else:
            dataset.write_manifest(plan)
    return GenerateResult(
        rows=sum(record.rows for record in queue.committed),
        quarantined=sum(sum(record.quarantined.values()) for record in queue.committed),
        units_missing=left,
        elapsed_s=time.monotonic() - began,
    )


def _recorded(options: GenerateOptions, source: ModelSource, images: CodeIndex | None) -> dict[str, Any]:
    """The settings that decide the tokens. Raises ConfigMismatchError if images are of another codec."""
    codec = source.codec()
    if images is not None:
        found = images.dataset.plan().settings["codec"]["fingerprint"]
        if codec["fingerprint"] not in (None, found):
            raise ConfigMismatchError(
                f"{options.images}: its codes are of tokenizer {found[:12]}, the model's of"
                f" {codec['fingerprint'][:12]}; encode the images with the model's tokenizer"
            )
        codec = {**codec, "fingerprint": found}
    generation = {
        **source.recorded(),
        "template": "text-to-image",
        "sampling": asdict(options.sampling),
        "guidance_scale": options.guidance_scale,
        "suffix": options.suffix,
        "defaults": asdict(options.defaults()),
        "prompts_sha256": _sha256_of_prompts(options),
        "images": images.dataset.plan().sha256 if images else None,
    }
    return {"format": SEQUENCE_FORMAT, "codec": codec, "generation": generation, "units": {"rows": options.unit_rows}}


def _sha256_of_prompts(options: GenerateOptions) -> str:
    """Of the prompt file, or of the plan of the dataset whose captions are the prompts."""
    path = Path(options.prompts)
    content = (path / "plan.arrow" if path.is_dir() else path).read_bytes()
    return hashlib.sha256(content).hexdigest()


class UnitWork:
    """What has been done of one unit: its journal, finished records by `src_index`, refusals."""

    def __init__(self, unit: Unit, journal: Journal | None):
        self.unit = unit
        self.journal = journal
        self.records: dict[int, CodeRecord] = {}
        self.refusals = [
            Refusal(item.key, item.src_index, item.uri, item.refused_reason, item.refused_detail or "")
            for item in unit.inputs
            if item.refused_reason
        ]

    @property
    def is_complete(self) -> bool:
        return len(self.records) + len(self.refusals) == len(self.unit.inputs)


class GenerateJob:
    """One run over the missing units of a plan."""

    def __init__(self, options: GenerateOptions, source: ModelSource, renderer: PromptRenderer, queue: UnitQueue):
        self.options = options
        self.source = source
        self.renderer = renderer
        self.queue = queue
        self.dataset, self.plan, self.stop = queue.dataset, queue.plan, queue.stop
        self.numerics: dict[str, Any] = {}
        self.work: dict[int, UnitWork] = {}
        self.owners: dict[str, tuple[UnitWork, PlannedInput]] = {}
        self.bar: tqdm = tqdm(disable=True)

    def run(self, missing: Sequence[int]) -> None:
        """Generates and commits the missing units that no other job works on."""
        sizes = self.plan.sizes()
        if any(sizes[number].height for number in missing):
            self._set_up()
        total, written = token_counts(self.plan, missing)
        images_done = 0
        with tqdm(total=total, initial=written, unit="token", desc="generate", disable=None) as self.bar:
            for (height, width), units in groupby(self.queue.take(missing), key=lambda unit: (unit.height, unit.width)):
                if not height:
                    for unit in units:
                        self._commit(self._open(unit))
                    continue
                images_done += self._run_size(self._generator(height, width), units, images_done)
                if self.stop.is_set():
                    break

    def _set_up(self) -> None:
        device = setup_device(self.options.device, self.options.dtype, ascend_dtype="bfloat16")
        self.numerics = {**device.numerics(), "backend": self.options.backend, "slots": self.options.slots}
        if not self.options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)

    def _generator(self, height: int, width: int) -> ImageGenerator:
        """For all prompts of one size; loads the model when the first is needed."""
        model = self.source.load(self.options.device, self.options.dtype, self.options.backend)
        length = longest_prompt(self.plan, height, width) + image_length(
            height // SPATIAL_FACTOR, width // SPATIAL_FACTOR
        )
        return model.image_generator(self.options.slots, length, self.options.sampling, self.options.guidance_scale)

    def _run_size(self, generator: ImageGenerator, units: Iterator[Unit], images_done: int) -> int:
        """Keeps all slots busy over all units of one size; returns the number of images finished."""
        from lm_stage.image_generator import ImageRequest

        finished = 0
        requests: Iterator[ImageRequest] = self._requests(units)
        try:
            while True:
                while generator.has_free_slot and (request := next(requests, None)):
                    generator.add(request)
                if not generator.running:
                    return finished
                self.bar.update(len(generator.running))
                for slot in generator.step():
                    self._finish(slot)
                    finished += 1
                    self.bar.set_postfix(images=images_done + finished, refresh=False)
                self._keep(slot for slot in generator.running if self._is_due(slot))
                if self.stop.is_set():
                    return finished
        finally:
            self._keep(generator.running)
            for work in self.work.values():
                if work.journal:
                    work.journal.close()

    def _requests(self, units: Iterator[Unit]) -> Iterator[Any]:
        """Requests of units one after the other; a unit is opened when its first request is wanted."""
        from lm_stage.image_generator import ImageRequest

        for unit in units:
            work = self._open(unit)
            for item in unit.inputs:
                if item.refused_reason:
                    continue
                prompt = planned_prompt(unit, item)
                codes = work.journal.codes.get(item.src_index, []) if work.journal else []
                self.owners[item.key] = (work, item)
                if len(codes) == prompt.height * prompt.width:
                    self._record(item.key, np.array(codes, np.uint16).reshape(prompt.height, prompt.width))
                    continue
                ids, negative = self.renderer.prompt_ids(prompt), self.renderer.negative_ids(prompt)
                is_replayed = self.options.resume == "replay"
                yield ImageRequest(
                    item.key, ids, negative, prompt.height, prompt.width, prompt.seed, tuple(codes), is_replayed
                )

    def _open(self, unit: Unit) -> UnitWork:
        self.queue.begin(unit.unit)
        belongs = {"plan_sha256": self.plan.sha256, "numerics": self.numerics}
        journal = Journal(self.dataset.journal_path(unit.unit), belongs) if unit.height else None
        self.work[unit.unit] = UnitWork(unit, journal)
        return self.work[unit.unit]

    def _is_due(self, slot: Slot) -> bool:
        return len(slot.codes) % (self.options.journal_rows * slot.request.width) == 0

    def _keep(self, slots: Iterator[Slot] | list[Slot]) -> None:
        """Journals the codes of running images."""
        journals = set()
        for slot in slots:
            work, item = self.owners[slot.request.key]
            assert work.journal is not None, "an image with a size has a journal"
            work.journal.add(item.src_index, slot.codes)
            journals.add(work.journal)
        for journal in journals:
            journal.sync()

    def _finish(self, slot: Slot) -> None:
        work, item = self.owners[slot.request.key]
        assert work.journal is not None, "an image with a size has a journal"
        work.journal.add(item.src_index, slot.codes)
        work.journal.sync()
        self._record(item.key, slot.codes_HW())

    def _record(self, key: str, codes_HW: np.ndarray) -> None:
        work, item = self.owners.pop(key)
        prompt = planned_prompt(work.unit, item)
        entry = canonical_json({"key": item.key, "text": item.text, "extra": item.extra_json})
        work.records[item.src_index] = SequenceRecord(
            key=item.key,
            src_index=item.src_index,
            kind="image",
            codes_THW=codes_HW[None],
            text=item.text,
            src_uri=item.uri,
            src_sha256=hashlib.sha256(entry.encode()).digest(),
            src_h=work.unit.height,
            src_w=work.unit.width,
            prompt=self.renderer.text(prompt),
            negative_prompt=prompt.negative_prompt if self.renderer.is_guided else None,
            seed=prompt.seed,
            guidance_scale=self.options.guidance_scale,
            sampling_json=canonical_json(asdict(self.options.sampling)),
        )
        if work.is_complete:
            self._commit(work)

    def _commit(self, work: UnitWork) -> None:
        records = [work.records[index] for index in sorted(work.records)]
        numerics = self.numerics if work.unit.height else {}
        self.queue.done(self.dataset.commit(work.unit.unit, records, work.refusals, self.plan, numerics, []))
        del self.work[work.unit.unit]
        if work.journal:
            work.journal.remove()
