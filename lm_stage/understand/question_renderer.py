"""Turns a question and the images it is about into a request for the text generator."""

from __future__ import annotations

from lm_stage.inference.text_generator import TextRequest
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.parts import CodeGrid, interleave
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.understand.options import UnderstandOptions
from lm_stage.understand.questions import Question
from shared.dataset.readers import KeyReader
from shared.errors import RefusedInput

# Tokens of a question and its answer: one graph is compiled for each length.
CACHE_LENGTHS = tuple(256 * 2**power for power in range(12))


class QuestionRenderer:
    """Renders questions for one model; `images` is the dataset of the images and videos they are about."""

    def __init__(self, model: ModelDirectory, images: KeyReader | None, options: UnderstandOptions):
        self.images = images
        self.options = options
        self.max_positions = model.config.max_position_embeddings
        self.sequences = SequenceRenderer(model.text_tokenizer, model.layout, options.video_format)

    def request(self, question: Question) -> TextRequest:
        """Render a question, leaving room for as many new tokens as the options and the model allow.

        Raises RefusedInput with the reason of the question's own refusal, or `missing_image`, `bad_images`, `too_long`.
        """
        if question.refusal:
            raise RefusedInput(*question.refusal)
        parts = interleave(question.text, [self._grid(key) for key in question.images])
        prompt_ids = self.sequences.question_prompt(parts, self.options.conversation_template).tolist()
        room = self.max_positions - len(prompt_ids)
        if room < 1:
            raise RefusedInput("too_long", f"{len(prompt_ids)} tokens, the model has {self.max_positions} positions")
        return TextRequest(question.key, prompt_ids, min(room, self.options.max_new_tokens), self.options.seed)

    def cache_length(self, request: TextRequest) -> int:
        """Return the length of the KV cache for a question and its answer."""
        length = next(length for length in CACHE_LENGTHS if length >= request.length)
        return min(length, self.max_positions)

    def _grid(self, key: str) -> CodeGrid:
        if self.images is None:
            raise RefusedInput("missing_image", "the question contains images; give the DATASET that holds them")
        if self.images.is_video(key):
            return CodeGrid.video(self.images.clip(key).codes_THW)
        return CodeGrid.image(self.images.image(key))
