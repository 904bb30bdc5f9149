"""From prompts to inputs of a plan, and back: counts tokens and refuses what cannot be generated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt, PromptDefaults
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import Codec
from shared.dataset.plan import REFUSED, Plan, PlannedInput, Size, Unit, UnitSize
from shared.errors import RefusedInput, UsageError
from shared.storage.digests import canonical_json
from shared.tokens.grid_formats import grid_length

ANSWER: Size = (1, 1, 1)  # of units of answers, in whose images the model decides


class PromptPlanner:
    """Checks prompts and counts their tokens, for a model with `max_positions` positions."""

    def __init__(self, renderer: PromptRenderer, max_positions: int, codec: Codec, max_new_tokens: int | None = None):
        self.renderer = renderer
        self.max_positions = max_positions
        self.codec = codec
        self.max_new_tokens = max_new_tokens

    def check_size(self, defaults: PromptDefaults) -> None:
        """Raise UsageError if the size given for all prompts takes more positions than the model has."""
        height, width = defaults.default_grid_size(defaults.ratio, defaults.area, defaults.height, defaults.width)
        prompt = Prompt("", "", "", height=height, width=width, frames=defaults.frames)
        if self.renderer.answer is not None:
            self._check_answer_size(prompt, defaults.is_size_given)
        elif defaults.is_size_given and (tokens := self.renderer.body_length(prompt)) > self.max_positions:
            frames = f"{defaults.frames} frames of " if defaults.frames else ""
            raise UsageError(
                f"the given size: {frames}{height}×{width} codes take {tokens} tokens, the model has"
                f" {self.max_positions} positions; give a smaller --area, --height and --width, or --frames"
            )

    def resolved(self, prompt: Prompt) -> Prompt:
        """Fill in the size of an edited image, and what a video takes from its clip; refuse what does not match."""
        if prompt.refusal:
            return prompt
        try:
            return self.renderer.with_clip_settings(self.renderer.with_image_size(prompt))
        except RefusedInput as refusal:
            return replace(prompt, refusal=(refusal.reason, refusal.detail))

    def planned(self, prompt: Prompt, src_index: int) -> tuple[Size, PlannedInput]:
        """Return a resolved prompt as an input of the plan; one that does not fit the model is refused."""
        (reason, detail), tokens = prompt.refusal or (None, None), 0
        if reason is None:
            try:
                tokens = self._tokens(prompt)
            except RefusedInput as refusal:
                reason, detail = refusal.reason, refusal.detail
        is_answer = self.renderer.answer is not None
        size_of_images = {"answer": [prompt.height, prompt.width]} if is_answer else {}
        extra_json = canonical_json({**_extra(prompt), **size_of_images, "prompt_tokens": tokens})
        planned = PlannedInput(src_index, prompt.key, prompt.uri, prompt.text, reason, detail, extra_json)
        factor = self.codec.spatial_factor
        size = (prompt.frames or 1, prompt.height * factor, prompt.width * factor)
        return REFUSED if reason else ANSWER if is_answer else size, planned

    def _tokens(self, prompt: Prompt) -> int:
        """Return the tokens of the longer of prompt and negative prompt.

        Raises RefusedInput (`too_long`) if they and the image need more positions than the model has.
        """
        tokens = max(len(self.renderer.prompt_ids(prompt)), len(self.renderer.negative_ids(prompt) or ()))
        if self.renderer.answer is not None:
            self._check_answer(tokens, prompt)
            return tokens
        needed = tokens + self.renderer.body_length(prompt)
        if needed > self.max_positions:
            size = f"{prompt.height}×{prompt.width} codes"
            target = f"video of {prompt.frames}×{size}" if prompt.frames else f"image of {size}"
            raise RefusedInput(
                "too_long",
                f"prompt ({tokens}) and {target} take {needed} tokens, the model has {self.max_positions} positions",
            )
        return tokens

    def _check_answer_size(self, prompt: Prompt, is_given: bool) -> None:
        """Raise UsageError if no answer can contain an image of the size given for all prompts."""
        limit = min(self.max_positions, self.max_new_tokens or self.max_positions)
        if is_given and (length := self.renderer.image_length(prompt)) > limit:
            raise UsageError(
                f"the given size: an image of {prompt.height}×{prompt.width} codes takes {length} tokens, an answer has"
                f" at most {limit}; give a smaller --area, or --height and --width, or raise --max-new-tokens"
            )

    def _check_answer(self, tokens: int, prompt: Prompt) -> None:
        """Raise RefusedInput (`too_long`) if an answer, or an image in it, does not fit after a prompt of that length.

        The size of the only image in a prompt is not checked: the answer may be text.
        """
        answer = self.max_new_tokens or 1
        if tokens + answer > self.max_positions:
            raise RefusedInput(
                "too_long",
                f"prompt ({tokens}) and answer ({answer}) take {tokens + answer} tokens, the model has"
                f" {self.max_positions} positions",
            )
        room = min(self.max_positions - tokens, self.max_new_tokens or self.max_positions)
        if self._is_size_forced(prompt) and (length := self.renderer.image_length(prompt)) > room:
            raise RefusedInput(
                "too_long",
                f"an image of {prompt.height}×{prompt.width} codes takes {length} tokens; after the prompt ({tokens})"
                f" there is room for {room}",
            )

    def _is_size_forced(self, prompt: Prompt) -> bool:
        return prompt.height > 0 and self.renderer.with_image_size(replace(prompt, height=0, width=0)) != prompt


def _extra(prompt: Prompt) -> dict[str, Any]:
    """Return the `extra_json` of a planned prompt; `video` is present only for videos."""
    extra = {"negative_prompt": prompt.negative_prompt, "seed": prompt.seed, "images": list(prompt.images)}
    return {**extra, "video": {"begins_with": prompt.video, "fps": prompt.fps}} if prompt.frames else extra


def planned_prompt(unit: Unit, item: PlannedInput, codec: Codec) -> Prompt:
    """Return the prompt that an input of a plan was made from; `codec` is the dataset's."""
    extra = json.loads(item.extra_json or "{}")
    video = extra.get("video")
    height, width = extra.get("answer", (unit.height // codec.spatial_factor, unit.width // codec.spatial_factor))
    return Prompt(
        key=item.key,
        uri=item.uri,
        text=item.text or "",
        negative_prompt=extra["negative_prompt"],
        height=height,
        width=width,
        seed=extra["seed"],
        images=tuple(extra["images"]),
        frames=unit.frames if video else 0,
        video=video["begins_with"] if video else None,
        fps=video["fps"] if video else None,
    )


def planned_prompts(plan: Plan) -> Iterator[Prompt]:
    """Yield all prompts of a plan; those that were refused while planning have no size."""
    for unit in map(plan.unit, range(len(plan))):
        yield from (planned_prompt(unit, item, plan.settings.codec) for item in unit.inputs)


def longest_prompt(plan: Plan, size: Size) -> int:
    """Return the tokens of the longest prompt in all units of this size (frames of codes; pixels)."""
    return max(
        json.loads(item.extra_json or "{}")["prompt_tokens"]
        for number, found in enumerate(plan.sizes())
        if (found.frames, found.height, found.width) == size
        for item in plan.unit(number).inputs
    )


def max_body_length(size: Size, sequences: SequenceRenderer, codec: Codec) -> int:
    """Return the tokens of the longest body in a unit of this size (frames of codes; pixels).

    A unit with one frame can contain images and videos.
    """
    frames, height, width = size[0], size[1] // codec.spatial_factor, size[2] // codec.spatial_factor
    formats = [sequences.format_of(is_video) for is_video in ((False, True) if frames == 1 else (True,))]
    return max(grid_length(frames, height, width, one) for one in formats)


def planned_sha256(item: PlannedInput) -> bytes:
    """Return the SHA-256 of a planned prompt, which stands for the source of its row."""
    planned = canonical_json({"key": item.key, "text": item.text, "extra": item.extra_json})
    return hashlib.sha256(planned.encode()).digest()


def progress_counts(plan: Plan, missing: Sequence[int], renderer: PromptRenderer) -> tuple[int, int]:
    """Return the tokens of all images and videos of the plan, or its answers, and of those in committed units."""
    codec, sequences = plan.settings.codec, renderer.sequences

    def count(size: UnitSize) -> int:
        if not size.height or renderer.answer is not None:
            return size.inputs if size.height else 0
        return size.inputs * max_body_length((size.frames, size.height, size.width), sequences, codec)

    counts = [count(size) for size in plan.sizes()]
    return sum(counts), sum(counts) - sum(counts[unit] for unit in missing)
