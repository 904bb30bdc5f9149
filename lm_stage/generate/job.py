"""The generation job: turns prompts into a dataset of token sequences (`emu3.seq/1`), which `emu3 decode` decodes.

Data flow of one prompt: prompt file → plan (size, unit) → token ids → sequence of the visual generator → codes,
journaled every few rows → record → committed part.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import plan_prompts, token_counts
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import PromptDefaults
from lm_stage.generate.worker import GenerateWorker
from lm_stage.inference.coded_images import open_coded_images
from lm_stage.inference.options import SamplingOptions
from lm_stage.model.model_directory import ModelDirectory
from shared.dataset.dataset import Dataset
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import KeyReader
from shared.dataset.settings import SEQUENCE_FORMAT, DatasetSettings
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits, run_units
from shared.maintenance.sweep import sweep
from shared.storage.paths import as_path
from shared.tokens.grid_formats import GridFormat


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of a generated dataset; a job that resumes must have the same.

    `model` contains the fingerprints of the model directory. `prompts_sha256` is the SHA-256 of the prompt file, or of
    the plan of the dataset whose captions are the prompts; `images` is that of the plan of the dataset of images, or
    None.
    `video_format` is set only if there are videos to generate.
    """

    model: Mapping[str, Any]
    sampling: SamplingOptions
    guidance_scale: float
    suffix: str
    defaults: PromptDefaults
    prompts_sha256: str
    images: str | None
    video_format: GridFormat | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = {**asdict(self), "template": "text-to-image", "defaults": self.defaults.to_json()}
        model, video_format = values.pop("model"), values.pop("video_format")
        return {**model, **values, **({"video_template": video_format} if video_format else {})}


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What this run generated and refused; `units_missing` counts units that other jobs are still working on."""

    rows: int
    quarantined: int
    units_missing: int
    elapsed_s: float


def generate(options: GenerateOptions) -> GenerateResult:
    """Generate what is missing in the dataset; calling it again resumes, even inside an image.

    Raises ConfigMismatchError, before the model loads, if the dataset was created with different settings;
    Interrupted after SIGINT or SIGTERM, with all codes so far in the journal.
    """
    start_s = time.monotonic()
    model = ModelDirectory.open(options.model, options.layout, options.codec)
    prompts = list_prompts(options.prompts, options.defaults())
    images = open_coded_images(options.images, model)
    renderer = PromptRenderer.for_job(options, model, images)
    settings = _settings(options, model, images, any(prompt.frames for prompt in prompts))
    dataset = Dataset(options.dataset)
    with (
        stop_on_signals() as stop,
        job_lock(dataset.root, partial(sweep, dataset) if options.engine.rank_count == 1 else None),
    ):
        if not dataset.plan_path.is_file():
            units = plan_prompts(prompts, renderer, model.config.max_position_embeddings, options.unit_rows)
            freeze_plan(dataset.plan_path, units, settings, len(prompts))
        plan = dataset.plan()
        plan.check_settings(settings, dataset.root)
        missing = PlanUnits.of(dataset, plan)
        tokens, tokens_done = token_counts(plan, missing.missing, options.video_format)
        missing = replace(missing, progress_total=tokens, progress_done=tokens_done)
        bar = tqdm(unit="token", desc="generate", disable=None)
        totals = run_units(missing, partial(GenerateWorker, options.for_workers()), options.engine, stop, bar)
        if not (units_missing := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return GenerateResult(totals.rows, totals.quarantined, units_missing, time.monotonic() - start_s)


def _settings(
    options: GenerateOptions, model: ModelDirectory, images: KeyReader | None, has_videos: bool
) -> DatasetSettings:
    codec = model.codec()
    if images is not None:
        codec = replace(codec, fingerprint=codec.fingerprint or images.dataset.plan().settings.codec.fingerprint)
    generation = GenerationSettings(
        model=model.recorded(),
        sampling=options.sampling,
        guidance_scale=options.guidance_scale,
        suffix=options.suffix,
        defaults=options.defaults(),
        prompts_sha256=_prompts_sha256(options.prompts),
        images=images.dataset.plan().sha256 if images else None,
        video_format=options.video_format if has_videos else None,
    )
    return DatasetSettings(codec, options.unit_rows, SEQUENCE_FORMAT, generation=generation.to_json())


def _prompts_sha256(prompts: str) -> str:
    """Hash the prompt file, or the plan of the dataset whose captions are the prompts."""
    path = as_path(prompts)
    content = (path / "plan.arrow" if path.is_dir() else path).read_bytes()
    return hashlib.sha256(content).hexdigest()
