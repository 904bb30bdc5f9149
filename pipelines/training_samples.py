"""Generates images with every checkpoint of a fine-tuning run: prompts → token shards → contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.training.options import SftOptions
from pipelines.workflow.codec_check import recorded_codec
from shared.errors import ConfigMismatchError
from shared.jobs.engines import EngineOptions
from vq_stage.decode.contact_sheet import draw_contact_sheet
from vq_stage.model.weights import codec_fingerprint


def sample_drawer(options: SftOptions, prompts: str, vision_tokenizer: str) -> Callable[[Path, int], None]:
    """Return a function of (model, step) that writes `samples/step-N/` and `samples/step-N.png` in the run.

    Prompts and tokenizer are checked now, so that a mistake in them does not stop the run at its first checkpoint.
    Raises UsageError if the prompts cannot be read, ConfigMismatchError if the model or a dataset belongs to another
    tokenizer.
    """
    generation = GenerateOptions(
        prompts,
        dataset="",
        model=options.model,
        video_template=options.video_template,
        device=options.device,
        engine=EngineOptions(rank=0, world_size=1),  # one process generates, however many train
    )
    list_prompts(prompts, generation.defaults())
    fingerprint = codec_fingerprint(vision_tokenizer)
    for path in (options.model, *(entry.path for entry in options.entries)):
        if (expected := recorded_codec(path)) and expected != fingerprint:
            raise ConfigMismatchError(
                f"--sample-prompts: {vision_tokenizer} is tokenizer {fingerprint[:12]}, {path} was made with"
                f" {expected[:12]}; give --vision-tokenizer"
            )

    def draw(model: Path, step: int) -> None:
        tokens = Path(options.run) / "samples" / f"step-{step:08d}"
        generate(replace(generation, dataset=str(tokens), model=str(model)))
        draw_contact_sheet(str(tokens), str(tokens.with_suffix(".png")), vision_tokenizer=vision_tokenizer)

    return draw
