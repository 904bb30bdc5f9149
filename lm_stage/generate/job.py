"""The generation job: turns prompts into a dataset of images and videos (`emu3.seq/1`), or of answers that mix text and
images (`emu3.answer/1`), which `emu3 decode` decodes.

Data flow of one prompt: prompt file → plan (size, unit) → token ids → sequence of the visual generator → codes,
journaled every few rows → record → committed part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.plan_updates import PromptCounts, count_died, up_to_date_plan
from lm_stage.generate.planner import PromptPlanner, planned_prompts, progress_counts
from lm_stage.generate.prompt_defaults import prompt_defaults
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt, PromptDefaults
from lm_stage.generate.worker import GenerateWorker
from lm_stage.inference.coded_images import open_coded_images
from lm_stage.inference.recorded_sampling import sampling_to_json
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.prompting import Prompting
from shared.dataset.dataset import Dataset
from shared.dataset.paths import check_output
from shared.dataset.plan import Plan
from shared.dataset.readers import KeyReader
from shared.dataset.settings import ANSWER_FORMAT, SEQUENCE_FORMAT, DatasetSettings
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from shared.tokens.grid_formats import UNIVLA, GridFormat


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of a generated dataset; a job that resumes must have the same.

    `model` contains the fingerprints of the model directory. `sampling` is the JSON form of the options. `images` is
    the SHA-256 of the plan of the dataset of images, or None. `video_format` is set if there were videos to generate
    at first. `template` names the prompting. `answers` has task, limit and sampling of text, if answers of text and
    images are generated. Version 0.1 recorded the SHA-256 of the prompt file; now prompts are compared one by one.
    """

    model: Mapping[str, Any]
    sampling: Mapping[str, Any]
    guidance_scale: float
    suffix: str
    defaults: PromptDefaults
    images: str | None
    video_format: GridFormat | None = None
    template: str = "text-to-image"
    answers: Mapping[str, Any] | None = None
    prompts_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = {**asdict(self), "defaults": self.defaults.to_json()}
        model, _ = values.pop("model"), values.pop("video_format")
        video_format = self.video_format.to_json() if self.video_format else None
        optional = {name: values.pop(name) for name in ("answers", "prompts_sha256")}
        optional["video_template"] = video_format
        return {**model, **values, **{name: value for name, value in optional.items() if value}}


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """The number of rows that this run generated, and what became of the prompts.

    `units_missing` counts units that other jobs are still working on.
    """

    rows: int
    prompts: PromptCounts
    units_missing: int
    elapsed_s: float

    @property
    def quarantined(self) -> int:
        """The number of refused prompts."""
        return self.prompts.refused.total()


def generate(options: GenerateOptions) -> GenerateResult:
    """Generate what is missing in the dataset; calling it again resumes, even inside an image.

    Raises ConfigMismatchError, before the model loads, if the dataset was created with different settings;
    Interrupted after SIGINT or SIGTERM, with all codes so far in the journal.
    """
    start_s = time.monotonic()
    model = ModelDirectory.open(options.model, options.layout, options.codec, options.prompting)
    dataset, defaults = Dataset(options.dataset), prompt_defaults(options, model)
    check_output(dataset.root)
    images = open_coded_images(options.images, model)
    renderer = PromptRenderer.for_job(options, model, images)
    planner = PromptPlanner(renderer, model.config.max_position_embeddings, model.codec, options.max_new_tokens)
    plan = dataset.plan() if dataset.plan_path.is_file() else None
    if plan is None:  # earlier versions accepted sizes that no prompt used
        planner.check_size(defaults)
    prompts = list_prompts(options.prompts, defaults)
    settings = _settings(options, model, images, prompts, plan)
    with (
        stop_on_signals() as stop,
        job_lock(dataset.root, partial(sweep, dataset) if options.engine.rank_count == 1 else None),
    ):
        plan, counts = up_to_date_plan(dataset, prompts, planner, settings, options.unit_rows)
        missing = PlanUnits.of(dataset, plan)
        tokens, tokens_done = progress_counts(plan, missing.missing, renderer)
        missing = replace(missing, progress_total=tokens, progress_done=tokens_done)
        bar = tqdm(unit="answer" if options.makes_answers else "token", desc="generate", disable=None)
        totals = run_units(missing, partial(GenerateWorker, options.for_workers()), options.engine, stop, bar)
        if not (units_missing := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    count_died(dataset, missing.missing, prompts, counts)
    return GenerateResult(totals.rows, counts, units_missing, time.monotonic() - start_s)


def _settings(
    options: GenerateOptions,
    model: ModelDirectory,
    images: KeyReader | None,
    prompts: Sequence[Prompt],
    plan: Plan | None,
) -> DatasetSettings:
    """Return the settings of a dataset, which has this plan if it exists already."""
    recorded = (plan.settings.generation or {}) if plan is not None else {}
    has_videos = any(prompt.frames for prompt in prompts)
    if plan is not None and not has_videos and options.video_format != UNIVLA:
        has_videos = any(prompt.frames for prompt in planned_prompts(plan))  # some may not be listed any more
    codec = model.codec
    if images is not None:
        codec = replace(codec, fingerprint=codec.fingerprint or images.dataset.plan().settings.codec.fingerprint)
    chosen = options.prompt_settings(model.prompting)
    generation = GenerationSettings(
        model=model.recorded(),
        sampling=sampling_to_json(chosen.sampling, recorded.get("sampling")),
        guidance_scale=chosen.guidance_scale,
        suffix=chosen.suffix,
        defaults=prompt_defaults(options, model),
        images=images.dataset.plan().sha256 if images is not None else None,
        video_format=options.recorded_video_format(has_videos, recorded),
        template=model.prompting.recorded,
        answers=_answer_settings(options, model.prompting),
        prompts_sha256=recorded.get("prompts_sha256"),
    )
    row_format = ANSWER_FORMAT if options.makes_answers else SEQUENCE_FORMAT
    return DatasetSettings(codec, options.unit_rows, row_format, generation=generation.to_json())


def _answer_settings(options: GenerateOptions, prompting: Prompting) -> dict[str, Any] | None:
    """Return what is recorded of answers besides the settings that images have too; None for images."""
    if not options.makes_answers:
        return None
    text = sampling_to_json(options.prompt_settings(prompting).text_sampling)
    return {"task": options.task, "max_new_tokens": options.max_new_tokens, "text_sampling": text}
