"""Pictures from a model while it is trained: prompts to token shards to a contact sheet, beside each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lm_stage.generate import GenerateOptions, generate
from lm_stage.prompts import list_prompts
from shared.jobs.engines import EngineOptions
from vq_stage.config import VQConfig
from vq_stage.contact_sheet import draw_contact_sheet


def sampler(run: Path, prompts: str, model: str, vision_tokenizer: str, device: str) -> Callable[[Path, int], None]:
    """What `sft` is to call with every checkpoint: writes `samples/step-N/` and `samples/step-N.png`.

    Prompts and tokenizer are looked at now, so that what is wrong with them does not end a run at its first checkpoint.
    """
    list_prompts(prompts, GenerateOptions(prompts, "", model).defaults())
    VQConfig.from_directory(vision_tokenizer)
    alone = EngineOptions(rank=0, world_size=1)  # whatever shares in the training

    def sample(model: Path, step: int) -> None:
        tokens = run / "samples" / f"step-{step:08d}"
        generate(GenerateOptions(prompts, str(tokens), str(model), device=device, engine=alone))
        draw_contact_sheet(str(tokens), str(tokens.with_suffix(".png")), vision_tokenizer=vision_tokenizer)

    return sample
