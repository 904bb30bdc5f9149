"""Turns a prompt into token ids, with the codes of the images it contains and of the clip it continues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.prompts import Prompt
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.renderer import CodeGrid, Part, SequenceRenderer, interleave
from lm_stage.text.templates import ConversationTemplate
from shared.dataset.readers import KeyReader
from shared.dataset.rows import DEFAULT_FPS, CodeRecord
from shared.errors import RefusedInput
from shared.tokens.grid_formats import GridFormat, grid_length
from shared.tokens.visual_tokens import checked_codes


class PromptRenderer:
    """Renders prompts, with the suffix of every prompt; `images` holds the images and clips that they refer to.

    `answer` is the template if answers of text and images are to be generated, else None.
    """

    def __init__(
        self,
        sequences: SequenceRenderer,
        suffix: str,
        is_guided: bool,
        images: KeyReader | None,
        answer: ConversationTemplate | None = None,
    ):
        self.sequences = sequences
        self.suffix = suffix
        self.is_guided = is_guided
        self.images = images
        self.answer = answer

    @classmethod
    def for_job(cls, options: GenerateOptions, model: ModelDirectory, images: KeyReader | None) -> PromptRenderer:
        sequences = SequenceRenderer(model.text_tokenizer, model.layout, options.video_format, model.prompting)
        settings = options.prompt_settings(model.prompting)
        return cls(sequences, settings.suffix, settings.is_guided, images, options.template(model.prompting))

    def text(self, prompt: Prompt) -> str:
        return prompt.text + self.suffix

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the token ids up to and including IMG, or all before an answer.

        Raises RefusedInput (`missing_image`, `bad_images`) if the images do not exist or do not match the marks.
        """
        prompting = self.sequences.prompting
        template = self.answer or (prompting.image_editing if prompt.images else prompting.text_to_image)
        parts = interleave(self.text(prompt), self._images(prompt), template.images_first)
        return self._render(parts, prompt, template)

    def negative_ids(self, prompt: Prompt) -> list[int] | None:
        """Return the token ids of the stream that guidance steers away from, or None without guidance."""
        if not self.is_guided:
            return None
        prompting = self.sequences.prompting
        images = self._images(prompt) if prompting.repeats_images else []
        return self._render([*images, prompt.negative_prompt], prompt, prompting.unconditional)

    def _images(self, prompt: Prompt) -> list[CodeGrid]:
        if not prompt.images:
            return []
        if self.images is None:
            raise RefusedInput("missing_image", "the prompt contains images; give their dataset by --images")
        return [CodeGrid.image(self.images.image(key)) for key in prompt.images]

    def _render(self, parts: Sequence[Part], prompt: Prompt, template: ConversationTemplate) -> list[int]:
        if self.answer is not None:
            return self.sequences.question_prompt(parts, template).tolist()
        size = prompt.frames or 1, prompt.height, prompt.width
        return self.sequences.generation_prompt(parts, self.grid_format(prompt), *size, template).tolist()

    def grid_format(self, prompt: Prompt) -> GridFormat:
        return self.sequences.format_of(is_video=prompt.frames > 0)

    def body_length(self, prompt: Prompt) -> int:
        """Return the number of tokens after IMG."""
        return grid_length(prompt.frames or 1, prompt.height, prompt.width, self.grid_format(prompt))

    def image_length(self, prompt: Prompt) -> int:
        """Return the number of tokens of an image in an answer, with its header."""
        header = self.sequences.header(self.grid_format(prompt), 1, prompt.height, prompt.width)
        return len(header) + self.body_length(prompt)

    def prefix_codes(self, prompt: Prompt) -> np.ndarray:
        """Return the codes (T, H, W) of the clip that a video continues; T is 0 if there is none."""
        if prompt.video is None:
            return np.zeros((0, prompt.height, prompt.width), np.int32)
        return checked_codes(self._clip(prompt.video).codes_THW, 3, self.sequences.layout)

    def with_image_size(self, prompt: Prompt) -> Prompt:
        """Give a prompt without a size that of its only image. Raises RefusedInput (`missing_image`)."""
        if prompt.height or prompt.video is not None or len(prompt.images) != 1:
            return prompt
        _, height, width = self._images(prompt)[0].codes_THW.shape
        return replace(prompt, height=height, width=width)

    def with_clip_settings(self, prompt: Prompt) -> Prompt:
        """Fill in the size and the frame rate of a video, from the clip that it continues if there is one.

        Raises RefusedInput (`missing_image`, `bad_frames`, `bad_size`) if the clip does not exist or does not fit.
        """
        if prompt.video is None:
            return replace(prompt, fps=prompt.fps or DEFAULT_FPS) if prompt.frames else prompt
        frames, height, width = self.prefix_codes(prompt).shape
        if prompt.frames <= frames:
            raise RefusedInput("bad_frames", f"{prompt.frames} frames: the clip has {frames}, expected more")
        if prompt.height and (prompt.height, prompt.width) != (height, width):
            raise RefusedInput(
                "bad_size",
                f"{prompt.height}×{prompt.width} codes: the clip has {height}×{width}; leave the size out",
            )
        return replace(
            prompt, height=height, width=width, fps=prompt.fps or self._clip(prompt.video).fps or DEFAULT_FPS
        )

    def _clip(self, key: str) -> CodeRecord:
        if self.images is None:
            raise RefusedInput("missing_image", "the video continues a clip; give its dataset by --images")
        return self.images.clip(key)
