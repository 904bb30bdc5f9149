"""Pictures from a model while it is trained: prompts to token shards to a contact sheet, beside each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lm_stage.generate import GenerateOptions, generate
from vq_stage.contact_sheet import draw_contact_sheet


def sampler(run: Path, prompts: str, vision_tokenizer: str, device: str) -> Callable[[Path, int], None]:
    """What `sft` is to call with every checkpoint: writes `samples/step-N/` and `samples/step-N.png`."""

    def sample(model: Path, step: int) -> None:
        tokens = run / "samples" / f"step-{step:08d}"
        generate(GenerateOptions(prompts, str(tokens), str(model), device=device))
        draw_contact_sheet(str(tokens), str(tokens.with_suffix(".png")), vision_tokenizer=vision_tokenizer)

    return sample
