"""From prompts to a frozen plan: token ids are counted, what cannot be generated is refused, sizes are grouped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from lm_stage.generate.prompts import Prompt
from lm_stage.text.parts import CodeGrid, Part, interleave
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import SPATIAL_FACTOR
from shared.dataset.plan import REFUSED, Plan, PlannedInput, Size, Unit
from shared.dataset.plan_writer import PlanWriter
from shared.dataset.readers import KeyReader
from shared.dataset.rows import CodeRecord
from shared.errors import RefusedInput
from shared.storage.digests import canonical_json
from shared.tokens.visual_tokens import IMAGE, GridFormat, checked_codes, grid_length

DEFAULT_FPS = 8.0  # of videos whose prompt gives none


class PromptRenderer:
    """Prompts to token ids, with and without the negative prompt."""

    def __init__(self, templates: SequenceRenderer, suffix: str, is_guided: bool, images: KeyReader | None):
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
        grids = [CodeGrid.image(self.images.image(key)) for key in prompt.images] if self.images else []
        return self._rendered(interleave(self.text(prompt), grids), prompt)

    def negative_ids(self, prompt: Prompt) -> list[int] | None:
        if not self.is_guided:
            return None
        return self._rendered([prompt.negative_prompt], prompt)

    def _rendered(self, parts: Sequence[Part], prompt: Prompt) -> list[int]:
        size = prompt.frames or 1, prompt.height, prompt.width
        return self.templates.generation_prompt(parts, self.body_template(prompt), *size).tolist()

    def body_template(self, prompt: Prompt) -> GridFormat:
        return self.templates.video_format if prompt.frames else IMAGE

    def given_codes(self, prompt: Prompt) -> np.ndarray:
        """Codes (T, H, W) that stand already, of the clip that a video begins with; of none, no frame."""
        if prompt.video is None:
            return np.zeros((0, prompt.height, prompt.width), np.uint16)
        return checked_codes(self._clip(prompt.video).codes_THW, 3, self.templates.layout)

    def _clip(self, key: str) -> CodeRecord:
        if self.images is None:
            raise RefusedInput("missing_image", "the video goes on with a clip: give its dataset by --images")
        return self.images.clip(key)

    def completed(self, prompt: Prompt) -> Prompt:
        """A prompt with the size and fps of the clip it begins with. Raises RefusedInput if they do not fit."""
        if prompt.video is None:
            return replace(prompt, fps=prompt.fps or DEFAULT_FPS) if prompt.frames else prompt
        clip = self._clip(prompt.video)
        frames, height, width = self.given_codes(prompt).shape
        if prompt.frames <= frames:
            raise RefusedInput("bad_frames", f"{prompt.frames} frames: the clip has {frames}, expected more")
        if prompt.height and (prompt.height, prompt.width) != (height, width):
            raise RefusedInput(
                "bad_size", f"{prompt.height}×{prompt.width} codes: the clip has {height}×{width}; leave the size out"
            )
        return replace(prompt, height=height, width=width, fps=prompt.fps or clip.fps or DEFAULT_FPS)


def plan_prompts(prompts: Sequence[Prompt], renderer: PromptRenderer, max_positions: int, unit_rows: int) -> list[Unit]:
    """Units of prompts for images or videos of one size; those that cannot be generated are refused here."""
    writer = PlanWriter(unit_rows)
    for index, prompt in enumerate(tqdm(prompts, "plan", unit="prompt", disable=None)):
        (reason, detail), tokens = prompt.refusal or (None, None), 0
        if reason is None:
            try:
                prompt = renderer.completed(prompt)
                tokens = _prompt_tokens(prompt, renderer, max_positions)
            except RefusedInput as refusal:
                reason, detail = refusal.reason, refusal.detail
        extra_json = canonical_json({**_extra(prompt), "prompt_tokens": tokens})
        planned = PlannedInput(index, prompt.key, prompt.uri, prompt.text, reason, detail, extra_json)
        size = (prompt.frames or 1, prompt.height * SPATIAL_FACTOR, prompt.width * SPATIAL_FACTOR)
        writer.add(REFUSED if reason else size, planned)
    return list(writer.units())


def _extra(prompt: Prompt) -> dict[str, Any]:
    """What a plan holds of a prompt beside text and size; `video` only if it asks for one."""
    extra = {"negative_prompt": prompt.negative_prompt, "seed": prompt.seed, "images": list(prompt.images)}
    return {**extra, "video": {"begins_with": prompt.video, "fps": prompt.fps}} if prompt.frames else extra


def _prompt_tokens(prompt: Prompt, renderer: PromptRenderer, max_positions: int) -> int:
    """Tokens of the longer of prompt and negative prompt. Raises RefusedInput if the positions do not suffice."""
    tokens = max(len(renderer.prompt_ids(prompt)), len(renderer.negative_ids(prompt) or ()))
    needed = tokens + grid_length(prompt.frames or 1, prompt.height, prompt.width, renderer.body_template(prompt))
    if needed > max_positions:
        size = f"{prompt.height}×{prompt.width} codes"
        asked = f"video of {prompt.frames}×{size}" if prompt.frames else f"image of {size}"
        raise RefusedInput(
            "too_long",
            f"prompt ({tokens}) and {asked} take {needed} tokens, the model has {max_positions} positions",
        )
    return tokens


def planned_prompt(unit: Unit, item: PlannedInput) -> Prompt:
    """The prompt of a planned input."""
    extra = json.loads(item.extra_json or "{}")
    video = extra.get("video")
    return Prompt(
        item.key,
        item.uri,
        item.text or "",
        extra["negative_prompt"],
        unit.height // SPATIAL_FACTOR,
        unit.width // SPATIAL_FACTOR,
        extra["seed"],
        tuple(extra["images"]),
        frames=unit.frames if video else 0,
        video=video["begins_with"] if video else None,
        fps=video["fps"] if video else None,
    )


def longest_prompt(plan: Plan, size: Size) -> int:
    """Tokens of the longest prompt among all units of one size: frames of codes, height and width in pixels."""
    return max(
        json.loads(item.extra_json or "{}")["prompt_tokens"]
        for number, found in enumerate(plan.sizes())
        if (found.frames, found.height, found.width) == size
        for item in plan.unit(number).inputs
    )


def body_length(size: Size, video: GridFormat) -> int:
    """Tokens of the longest body in a unit of this size; a video of one frame is not longer than an image."""
    frames, height, width = size
    template = IMAGE if frames == 1 else video
    return grid_length(frames, height // SPATIAL_FACTOR, width // SPATIAL_FACTOR, template)


def token_counts(plan: Plan, missing: Sequence[int], video: GridFormat) -> tuple[int, int]:
    """Tokens of all images and videos of the plan, and of the units that are committed already."""
    counts = [
        size.inputs * body_length((size.frames, size.height, size.width), video) if size.height else 0
        for size in plan.sizes()
    ]
    return sum(counts), sum(counts) - sum(counts[number] for number in missing)
