"""What a generation job makes of prompts for single images and videos: requests for the generator, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.generate.options import GenerateOptions, PromptSettings
from lm_stage.generate.planner import longest_prompt, max_body_length
from lm_stage.generate.prompt_columns import prompt_columns
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.inference.recorded_sampling import sampling_to_json
from shared.dataset.plan import Plan, PlannedInput, Size
from shared.dataset.rows import SequenceRecord
from shared.storage.digests import canonical_json

if TYPE_CHECKING:
    from lm_stage.inference.visual_generator import VisualGenerator
    from lm_stage.inference.visual_sequence import VisualRequest, VisualSequence
    from lm_stage.language_model import LanguageModel


class VisualProduct:
    """Images and videos, each in a size that is planned. The journal holds their codes."""

    def __init__(self, options: GenerateOptions, settings: PromptSettings, renderer: PromptRenderer, plan: Plan):
        self.options, self.settings, self.renderer, self.plan = options, settings, renderer, plan
        self.codec = plan.settings.codec
        self.journal_dtype = self.codec.code_dtype

    def generator(self, model: LanguageModel, size: Size) -> VisualGenerator:
        """Return a generator whose KV cache is long enough for all prompts of one size."""
        options, settings = self.options, self.settings
        length = longest_prompt(self.plan, size) + max_body_length(size, self.renderer.sequences, self.codec)
        return model.visual_generator(
            options.batch_size, length, settings.sampling, settings.guidance_scale, options.window
        )

    def request(self, prompt: Prompt, journaled: Sequence[int]) -> VisualRequest:
        from lm_stage.inference.visual_sequence import VisualRequest

        return VisualRequest(
            key=prompt.key,
            prompt_ids=self.renderer.prompt_ids(prompt),
            negative_ids=self.renderer.negative_ids(prompt),
            height=prompt.height,
            width=prompt.width,
            seed=prompt.seed,
            codes=tuple(journaled),
            is_replayed=self.options.resume == "replay",
            frames=prompt.frames or 1,
            grid_format=self.renderer.grid_format(prompt),
            prefix_codes=self.renderer.prefix_codes(prompt).reshape(-1).tolist(),
        )

    def finished(self, request: VisualRequest) -> np.ndarray | None:
        """Return the codes (T, H, W) of a request that the journal completes, None for any other."""
        shape_THW = request.frames, request.height, request.width
        codes = [*request.prefix_codes, *request.codes]
        is_whole = len(codes) == np.prod(shape_THW)
        return np.array(codes, self.codec.code_dtype).reshape(shape_THW) if is_whole else None

    def result(self, sequence: VisualSequence) -> np.ndarray:
        return sequence.codes_THW()

    def to_journal(self, sequence: VisualSequence) -> list[int]:
        return sequence.codes

    def is_due(self, sequence: VisualSequence, journaled: int) -> bool:
        return sequence.code_count - journaled >= self.options.journal_rows * sequence.request.width

    def progress(self, sequence: VisualSequence) -> int:
        """Return the number of tokens; a finished sequence has its last control tokens too."""
        return len(sequence.template) if sequence.is_done else sequence.offset

    def record(self, item: PlannedInput, prompt: Prompt, codes_THW: np.ndarray) -> SequenceRecord:
        """Turn the codes of a finished image or video into a row."""
        settings, factor = self.settings, self.codec.spatial_factor
        return SequenceRecord(
            **prompt_columns(item, prompt, self.renderer, settings.guidance_scale),
            kind="video" if prompt.frames else "image",
            codes_THW=codes_THW,
            src_h=prompt.height * factor,
            src_w=prompt.width * factor,
            fps=prompt.fps,
            sampling_json=canonical_json(sampling_to_json(settings.sampling)),
        )
