"""Pictures from a model while it is trained: prompts to token shards to a contact sheet, beside each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lm_stage.generate.job import generate
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.training.options import SftOptions
from pipelines.workflow.codec import carried_codec
from shared.errors import ConfigMismatchError
from shared.jobs.engines import EngineOptions
from vq_stage.decode.contact_sheet import draw_contact_sheet
from vq_stage.model.weights import codec_fingerprint


def sampler(options: SftOptions, prompts: str, vision_tokenizer: str) -> Callable[[Path, int], None]:
    """What `sft` is to call with every checkpoint: writes `samples/step-N/` and `samples/step-N.png`.

    Prompts and tokenizer are looked at now, so that what is wrong with them does not end a run at its first checkpoint.
    Raises ConfigMismatchError if the codes trained on are another tokenizer's.
    """
    alone = EngineOptions(rank=0, world_size=1)  # whatever shares in the training
    generation = GenerateOptions(
        prompts, "", model=options.model, device=options.device, engine=alone, video_template=options.video_template
    )
    list_prompts(prompts, generation.defaults())
    found = codec_fingerprint(vision_tokenizer)
    for place in (options.model, *(entry.path for entry in options.entries)):
        if (expected := carried_codec(place)) and expected != found:
            raise ConfigMismatchError(
                f"--sample-prompts: {vision_tokenizer} is tokenizer {found[:12]}, {place} is of {expected[:12]}; give"
                " --vision-tokenizer"
            )

    def sample(model: Path, step: int) -> None:
        tokens = Path(options.run) / "samples" / f"step-{step:08d}"
        generate(replace(generation, dataset=str(tokens), model=str(model)))
        draw_contact_sheet(str(tokens), str(tokens.with_suffix(".png")), vision_tokenizer=vision_tokenizer)

    return sample
