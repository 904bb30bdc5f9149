"""Checks before a pipeline starts that options suit the vision tokenizers that they are used with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.workflow.step import Step, producer_of
from shared.codec import Codec
from shared.errors import RelayError, UsageError
from vq_stage.encode.options import EncodeOptions
from vq_stage.model.codec import read_factors
from vq_stage.model.families import read_config_file
from vq_stage.training.options import TrainVQOptions


def tokenizer_problems(steps: Sequence[Step]) -> Iterator[str]:
    """Describe options, such as `round-to` and `clip-frames`, that do not suit the tokenizer of their step.

    A tokenizer that a step trains is known by its config. Each step comes after those that it needs. Tokenizers and
    configs that cannot be read are left out: the check of codecs, or the step itself, reports them.
    """
    outputs = {step.name: step.output for step in steps}
    trained: dict[str, Codec] = {}
    for step in steps:
        try:
            codec = _codec_of(step.options, outputs, trained)
        except RelayError:
            codec = None
        if codec is None:
            continue
        try:
            if isinstance(step.options, TrainVQOptions):
                trained[step.name] = codec
                step.options.fitted(codec)
            elif isinstance(step.options, EncodeOptions):
                step.options.check(codec)
        except UsageError as error:
            yield f"step {step.name}: {error}"


def _codec_of(options: object, outputs: Mapping[str, Path | None], trained: Mapping[str, Codec]) -> Codec | None:
    """Return the codec of the tokenizer that options name, None if they name none or an unknown one."""
    if isinstance(options, TrainVQOptions) and options.config is not None:
        return read_config_file(options.config).codec
    tokenizer = None
    if isinstance(options, TrainVQOptions):
        tokenizer = options.init_from
    elif isinstance(options, EncodeOptions):
        tokenizer = options.vision_tokenizer
    if tokenizer is None:
        return None
    producer = producer_of(tokenizer, outputs)
    return trained.get(producer) if producer else read_factors(tokenizer)
