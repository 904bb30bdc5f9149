"""The generation job: prompts to a dataset of token sequences (`emu3.seq/1`), which `emu3 decode` turns into pictures.

The way of one prompt: prompt file → plan (size, unit) → token ids → slot of the image generator → codes, journaled
every few rows → record → committed part.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial

from tqdm import tqdm

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import PromptRenderer, plan_prompts, token_counts
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.worker import GenerateWorker
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.templates import video_format_named
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import KeyReader
from shared.dataset.rows import SEQUENCE_FORMAT
from shared.dataset.settings import DatasetSettings
from shared.errors import ConfigMismatchError
from shared.jobs.engines import run_units
from shared.jobs.file_locks import job_lock
from shared.jobs.signals import stop_on_signals
from shared.jobs.units import PlanUnits
from shared.maintenance.sweep import sweep
from shared.storage.paths import as_path


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
    source = ModelDirectory.open(options.model, options.layout, options.codec)
    prompts = list_prompts(options.prompts, options.defaults())
    renderer = options.renderer(source)
    settings = _recorded(options, source, renderer.images, any(prompt.frames for prompt in prompts))
    dataset = Dataset(options.dataset)
    with (
        stop_on_signals() as stop,
        job_lock(dataset.root, partial(sweep, dataset) if options.engine.rank_count == 1 else None),
    ):
        if not dataset.plan_path.is_file():
            units = plan_prompts(prompts, renderer, source.config.max_position_embeddings, options.unit_rows)
            freeze_plan(dataset.plan_path, units, settings, len(prompts))
        plan = dataset.plan()
        plan.check_settings(settings, dataset.root)
        to_do, bar = _units_in_tokens(dataset, plan, renderer), tqdm(unit="token", desc="generate", disable=None)
        run = run_units(to_do, partial(GenerateWorker, options.for_workers()), options.engine, stop, bar)
        if not (left := len(dataset.missing_units(plan))):
            dataset.write_manifest(plan)
    return GenerateResult(run.rows, run.quarantined, left, time.monotonic() - began)


def _units_in_tokens(dataset: Dataset, plan: Plan, renderer: PromptRenderer) -> PlanUnits:
    """Missing units, with progress counted in tokens."""
    units = PlanUnits.of(dataset, plan)
    tokens, written = token_counts(plan, units.missing, renderer.templates.video_format)
    return replace(units, progress_total=tokens, progress_done=written)


def _recorded(
    options: GenerateOptions, source: ModelDirectory, images: KeyReader | None, has_videos: bool
) -> DatasetSettings:
    """The settings that decide the tokens. Raises ConfigMismatchError if images are of another codec."""
    codec = source.codec()
    if images is not None:
        found = images.dataset.plan().settings.codec
        if codec.fingerprint not in (None, found.fingerprint):
            raise ConfigMismatchError(
                f"{options.images}: codes of tokenizer {found.short_fingerprint}, expected those of the model's"
                f" tokenizer {codec.short_fingerprint}; encode the images with the model's tokenizer"
            )
        codec = replace(codec, fingerprint=found.fingerprint)
    generation = {
        **source.recorded(),
        "template": "text-to-image",
        "sampling": asdict(options.sampling),
        "guidance_scale": options.guidance_scale,
        "suffix": options.suffix,
        "defaults": options.defaults().to_json(),
        "prompts_sha256": _sha256_of_prompts(options),
        "images": images.dataset.plan().sha256 if images else None,
    }
    if has_videos:
        generation["video_template"] = asdict(video_format_named(options.video_template))
    return DatasetSettings(codec, options.unit_rows, SEQUENCE_FORMAT, generation=generation)


def _sha256_of_prompts(options: GenerateOptions) -> str:
    """Of the prompt file, or of the plan of the dataset whose captions are the prompts."""
    path = as_path(options.prompts)
    content = (path / "plan.arrow" if path.is_dir() else path).read_bytes()
    return hashlib.sha256(content).hexdigest()
