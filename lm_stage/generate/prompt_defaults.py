"""The settings of prompts that do not have their own, from the options of a job and from its model."""

from __future__ import annotations

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompts import PromptDefaults
from lm_stage.model.config import read_config
from lm_stage.model.model_directory import ModelDirectory
from shared.codec import Codec
from shared.errors import CheckpointError


def prompt_defaults(options: GenerateOptions, model: ModelDirectory, codec: Codec | None = None) -> PromptDefaults:
    """Return the settings of prompts; area, codec and prompting are the model's unless they are given.

    Raises UsageError for settings that describe no image, CheckpointError for a bad area in `config.json`.
    """
    return PromptDefaults(
        area=_area(options, model),
        ratio="1:1" if options.ratio is None else options.ratio,
        height=options.height,
        width=options.width,
        negative_prompt=options.prompt_settings(model.prompting).negative_prompt,
        seed=options.seed,
        samples=options.samples,
        is_size_given=any(one is not None for one in (options.area, options.height, options.ratio)),
        frames=options.frames,
        codec=codec or model.codec,
        prompting=model.prompting,
        is_answer=options.makes_answers,
    )


def _area(options: GenerateOptions, model: ModelDirectory) -> int:
    """Return the pixels of an image: those given, else those of the model, else those published for the task."""
    if options.area is not None:
        return options.area
    task, prompting = options.template(model.prompting), model.prompting
    published = prompting.interleaved_area if task and prompting.is_interleaved(task) else prompting.area
    area = read_config(model.path).get("image_area", published)
    if not isinstance(area, int):
        raise CheckpointError(f"{model.path}: config.json: image_area {area!r}: expected an integer (pixels)")
    return area
