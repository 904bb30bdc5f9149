"""From prompts to a frozen plan: token ids are counted, what cannot be generated is refused, sizes are grouped."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from tqdm import tqdm

from lm_stage.prompts import SPATIAL_FACTOR, Prompt
from lm_stage.templates import Templates, interleave
from shared.code_index import CodeIndex
from shared.errors import RefusedInput
from shared.fingerprint import canonical_json
from shared.plan import Plan, PlannedInput, Unit, cut_units
from shared.visual_tokens import image_length


class PromptRenderer:
    """Prompts to token ids, with and without the negative prompt."""

    def __init__(self, templates: Templates, suffix: str, is_guided: bool, images: CodeIndex | None):
        self.templates = templates
        self.suffix = suffix
        self.is_guided = is_guided
        self.images = images

    def text(self, prompt: Prompt) -> str:
        return prompt.text + self.suffix

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Up to and with IMG. Raises RefusedInput if an image is not there."""
        if prompt.images and self.images is None:
            raise RefusedInput("missing_image", "the prompt holds images: give their dataset by --images")
        codes = [self.images.image(key) for key in prompt.images] if self.images else []
        return self.templates.image_prompt(interleave(self.text(prompt), codes), prompt.height, prompt.width)

    def negative_ids(self, prompt: Prompt) -> list[int] | None:
        if not self.is_guided:
            return None
        return self.templates.image_prompt([prompt.negative_prompt], prompt.height, prompt.width)


def plan_prompts(prompts: Sequence[Prompt], renderer: PromptRenderer, max_positions: int, unit_rows: int) -> list[Unit]:
    """Units of prompts for images of one size; those that cannot be generated are refused here."""
    by_size: dict[tuple[int, int], list[PlannedInput]] = defaultdict(list)
    for index, prompt in enumerate(tqdm(prompts, "plan", unit="prompt", disable=None)):
        size = (prompt.height * SPATIAL_FACTOR, prompt.width * SPATIAL_FACTOR)
        (reason, detail), tokens = prompt.refusal or (None, None), 0
        if reason is None:
            try:
                tokens = _prompt_tokens(prompt, renderer, max_positions)
            except RefusedInput as refusal:
                reason, detail = refusal.reason, refusal.detail
        extra = {"negative_prompt": prompt.negative_prompt, "seed": prompt.seed, "images": list(prompt.images)}
        extra_json = canonical_json({**extra, "prompt_tokens": tokens})
        planned = PlannedInput(index, prompt.key, prompt.uri, prompt.text, reason, detail, extra_json)
        by_size[(0, 0) if reason else size].append(planned)
    return cut_units(by_size, unit_rows)


def _prompt_tokens(prompt: Prompt, renderer: PromptRenderer, max_positions: int) -> int:
    """Tokens of the longer of prompt and negative prompt. Raises RefusedInput if the positions do not suffice."""
    tokens = max(len(renderer.prompt_ids(prompt)), len(renderer.negative_ids(prompt) or ()))
    needed = tokens + image_length(prompt.height, prompt.width)
    if needed > max_positions:
        raise RefusedInput(
            "too_long",
            f"prompt ({tokens}) and image of {prompt.height}×{prompt.width} codes take {needed} tokens,"
            f" the model has {max_positions} positions",
        )
    return tokens


def planned_prompt(unit: Unit, item: PlannedInput) -> Prompt:
    """The prompt of a planned input."""
    extra = json.loads(item.extra_json or "{}")
    return Prompt(
        item.key,
        item.uri,
        item.text or "",
        extra["negative_prompt"],
        unit.height // SPATIAL_FACTOR,
        unit.width // SPATIAL_FACTOR,
        extra["seed"],
        tuple(extra["images"]),
    )


def longest_prompt(plan: Plan, height: int, width: int) -> int:
    """Tokens of the longest prompt among all units of one size in pixels."""
    return max(
        json.loads(item.extra_json or "{}")["prompt_tokens"]
        for number, size in enumerate(plan.sizes())
        if (size.height, size.width) == (height, width)
        for item in plan.unit(number).inputs
    )


def token_counts(plan: Plan, missing: Sequence[int]) -> tuple[int, int]:
    """Tokens of all images of the plan, and of the units that are committed already."""
    counts = [
        size.inputs * image_length(size.height // SPATIAL_FACTOR, size.width // SPATIAL_FACTOR) if size.height else 0
        for size in plan.sizes()
    ]
    return sum(counts), sum(counts) - sum(counts[number] for number in missing)
