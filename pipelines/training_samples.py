"""Generates images with every checkpoint of a fine-tuning run: prompts → token shards → contact sheet.

In a process of its own, which takes its model and compiled graphs with it when it ends.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import PromptPlanner
from lm_stage.generate.prompt_defaults import prompt_defaults
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.training.distributed import is_distributed
from lm_stage.training.job import set_up_training
from lm_stage.training.options import SftOptions
from pipelines.workflow.codec_check import recorded_codec
from shared.errors import ConfigMismatchError, RelayError, UsageError
from shared.jobs.engines import EngineOptions
from shared.jobs.process_tree import signal_at_parent_death
from vq_stage.decode.contact_sheet import draw_contact_sheet
from vq_stage.model.weights import codec_fingerprint


def sample_drawer(options: SftOptions, prompts: str, vision_tokenizer: str) -> Callable[[Path, int], None]:
    """Return a function of (model, step) that writes `samples/step-N/` and `samples/step-N.png` in the run.

    Prompts and tokenizer are checked now, so that a mistake in them does not show at the first checkpoint. Later errors
    are printed and do not stop the run. Raises UsageError if no prompt can be generated, if several processes train, or
    with ZeRO on Ascend; ConfigMismatchError if the model or a dataset belongs to another tokenizer.
    """
    _check_one_process(options)
    generation = GenerateOptions(
        prompts,
        dataset="",
        model=options.model,
        video_template=options.video_template,
        device=options.device,
        kernels=options.kernels,
        engine=EngineOptions(rank=0, world_size=1),  # one process generates, however many train
    )
    model = ModelDirectory.open(options.model, verify=False)  # the training verifies it
    _check_prompts(generation, model)
    fingerprint = codec_fingerprint(vision_tokenizer)
    for path in (options.model, *(entry.path for entry in options.entries)):
        if (expected := recorded_codec(path)) and expected != fingerprint:
            raise ConfigMismatchError(
                f"--sample-prompts: {vision_tokenizer} is tokenizer {fingerprint[:12]}, {path} was made with"
                f" {expected[:12]}; give --vision-tokenizer"
            )

    def draw(model: Path, step: int) -> None:
        tokens = Path(options.run) / "samples" / f"step-{step:08d}"
        job = replace(generation, dataset=str(tokens), model=str(model))
        try:
            with ProcessPoolExecutor(1, get_context("spawn"), signal_at_parent_death, (signal.SIGKILL,)) as process:
                process.submit(_generate_and_draw, job, vision_tokenizer).result()
        except (RelayError, RuntimeError, OSError, KeyboardInterrupt) as error:
            tqdm.write(f"--sample-prompts: step {step}: not drawn: {error or type(error).__name__}", file=sys.stderr)

    return draw


def _check_prompts(generation: GenerateOptions, model: ModelDirectory) -> None:
    """Print the prompts that are refused. Raises UsageError if none can be generated."""
    renderer, defaults = PromptRenderer.for_job(generation, model, None), prompt_defaults(generation, model)
    planner = PromptPlanner(renderer, model.config.max_position_embeddings, model.codec)
    prompts = list_prompts(generation.prompts, defaults)
    planned = (planner.planned(planner.resolved(prompt), index)[1] for index, prompt in enumerate(prompts))
    refused = [f"{one.key}: {one.refused_reason}: {one.refused_detail}" for one in planned if one.refused_reason]
    if len(refused) == len(prompts):
        raise UsageError(f"--sample-prompts {generation.prompts}: every prompt is refused; the first: {refused[0]}")
    for line in refused:
        tqdm.write(f"--sample-prompts: not drawn: {line}", file=sys.stderr)


def _check_one_process(options: SftOptions) -> None:
    """Raises UsageError if others would wait for the pictures, or if the device has no memory for a second model."""
    if is_distributed() or (options.zero and set_up_training(options).kind == "Ascend"):
        raise UsageError(
            "--sample-prompts: expected one process, without --zero on Ascend: others would wait for the pictures until"
            " their collectives time out, and a second model needs memory beside the training; draw from checkpoints,"
            f" with `emu3 generate PROMPTS DATASET --model {options.run}/checkpoints/step-N`"
        )


def _generate_and_draw(generation: GenerateOptions, vision_tokenizer: str) -> None:
    generate(generation)
    sheet, device = f"{generation.dataset}.png", generation.device
    draw_contact_sheet(generation.dataset, sheet, vision_tokenizer=vision_tokenizer, device=device)
