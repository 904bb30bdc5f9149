"""What a generation job makes of prompts for answers of text and images: requests for the generator, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.generate.options import GenerateOptions, PromptSettings
from lm_stage.generate.planner import longest_prompt
from lm_stage.generate.prompt_columns import prompt_columns
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.inference.recorded_sampling import sampling_to_json
from lm_stage.text.answer_grammar import AnswerGrammar, DecodedPart, answer_parts
from shared.dataset.columns import ANSWER_KIND
from shared.dataset.plan import Plan, PlannedInput, Size
from shared.dataset.rows import AnswerPart, AnswerRecord
from shared.storage.digests import canonical_json

if TYPE_CHECKING:
    from lm_stage.inference.answer_generator import AnswerGenerator, AnswerRequest, AnswerSequence
    from lm_stage.language_model import LanguageModel

JOURNAL_ROW = 64  # tokens of an answer that count as a row of codes


class InterleavedProduct:
    """Answers of text and images, whose length and sizes the model decides. The journal holds their tokens."""

    journal_dtype = "uint32"

    def __init__(
        self,
        options: GenerateOptions,
        settings: PromptSettings,
        renderer: PromptRenderer,
        plan: Plan,
        max_positions: int,
    ):
        self.options, self.settings, self.renderer, self.plan = options, settings, renderer, plan
        self.max_positions = max_positions
        self.codec = plan.settings.codec
        self.grammar = AnswerGrammar.of(renderer.sequences)

    def generator(self, model: LanguageModel, size: Size) -> AnswerGenerator:
        """Return a generator whose KV cache is long enough for all prompts and their answers."""
        options, settings = self.options, self.settings
        longest = longest_prompt(self.plan, size) + (options.max_new_tokens or self.max_positions)
        return model.answer_generator(
            options.batch_size,
            min(longest, self.max_positions),
            settings.sampling,
            settings.text_sampling,
            settings.guidance_scale,
        )

    def request(self, prompt: Prompt, journaled: Sequence[int]) -> AnswerRequest:
        from lm_stage.inference.answer_generator import AnswerRequest

        prompt_ids, negative_ids = self.renderer.prompt_ids(prompt), self.renderer.negative_ids(prompt)
        room = self.max_positions - max(len(prompt_ids), len(negative_ids or ()))
        return AnswerRequest(
            key=prompt.key,
            prompt_ids=prompt_ids,
            negative_ids=negative_ids,
            max_new_tokens=min(room, self.options.max_new_tokens or room),
            seed=prompt.seed,
            size=(prompt.height, prompt.width) if prompt.height else None,
            repeats_size=len(prompt.images) < 2,
            tokens=tuple(journaled),
            is_replayed=self.options.resume == "replay",
        )

    def finished(self, request: AnswerRequest) -> AnswerSequence | None:
        """Return the answer to a request that the journal completes, None for any other."""
        from lm_stage.inference.answer_generator import AnswerSequence

        sequence = AnswerSequence(request, self.grammar)
        for token in request.tokens:
            sequence.take(token)
        return sequence if sequence.is_done else None

    def result(self, sequence: AnswerSequence) -> AnswerSequence:
        return sequence

    def to_journal(self, sequence: AnswerSequence) -> list[int]:
        return sequence.tokens

    def is_due(self, sequence: AnswerSequence, journaled: int) -> bool:
        return len(sequence.tokens) - journaled >= self.options.journal_rows * JOURNAL_ROW

    def progress(self, sequence: AnswerSequence) -> int:
        """Return 1 for a finished answer, whose number of tokens is not known in advance."""
        return int(sequence.is_done)

    def record(self, item: PlannedInput, prompt: Prompt, answer: AnswerSequence) -> AnswerRecord:
        """Turn a finished answer into a row."""
        settings = self.settings
        parts = list(answer_parts(answer.tokens, self.grammar, self.renderer.sequences.text_tokenizer.decode))
        images = [part.codes_HW.reshape(-1) for part in parts if part.codes_HW is not None]
        codes = np.concatenate([np.zeros(0, np.int32), *images]).astype(self.codec.code_dtype)
        sampling = {**sampling_to_json(settings.sampling), "text": sampling_to_json(settings.text_sampling)}
        return AnswerRecord(
            **prompt_columns(item, prompt, self.renderer, settings.guidance_scale),
            kind=ANSWER_KIND,
            codes_THW=codes.reshape(1, 1, -1),
            src_h=0,
            src_w=0,
            sampling_json=canonical_json(sampling),
            finish_reason=answer.state.finish_reason or "length",
            tokens=[*answer.request.prompt_ids, *answer.tokens],
            parts=tuple(map(_stored_part, parts)),
        )


def _stored_part(part: DecodedPart) -> AnswerPart:
    height, width = (0, 0) if part.codes_HW is None else part.codes_HW.shape
    return AnswerPart(part.kind, part.text, height, width)
