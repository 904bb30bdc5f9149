"""The columns of a generated row that say which prompt it was generated for."""

from __future__ import annotations

from typing import TypedDict

from lm_stage.generate.planner import planned_sha256
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from shared.dataset.plan import PlannedInput


class PromptColumns(TypedDict):
    """Fields of a `SequenceRecord`."""

    key: str
    src_index: int
    text: str | None
    src_uri: str
    src_sha256: bytes
    prompt: str
    negative_prompt: str | None
    seed: int
    guidance_scale: float


def prompt_columns(
    item: PlannedInput, prompt: Prompt, renderer: PromptRenderer, guidance_scale: float
) -> PromptColumns:
    """Return the columns of the row for a planned prompt, which `item` describes in the plan."""
    return PromptColumns(
        key=item.key,
        src_index=item.src_index,
        text=item.text,
        src_uri=item.uri,
        src_sha256=planned_sha256(item),
        prompt=renderer.text(prompt),
        negative_prompt=prompt.negative_prompt if renderer.is_guided else None,
        seed=prompt.seed,
        guidance_scale=guidance_scale,
    )
