"""The questions of a job, listed and rendered to requests for the text generator.

They are one question about every image or video of a dataset, or those of a JSON lines file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_stage.inference.text_generator import TextRequest
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.renderer import CodeGrid, SequenceRenderer, interleave
from lm_stage.text.templates import default_question
from lm_stage.understand.options import UnderstandOptions
from shared.dataset.readers import KeyReader
from shared.errors import RefusedInput, UsageError

# Tokens of a question and its answer: one graph is compiled for each length.
CACHE_LENGTHS = tuple(256 * 2**power for power in range(12))


@dataclass(frozen=True, slots=True)
class Question:
    """One question, or a refused one: `refusal` is then (reason, detail).

    `images` are keys of images or videos in the dataset.
    """

    key: str
    text: str
    images: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None


def list_questions(question: str | None, questions: str | None, index: KeyReader | None) -> list[Question]:
    """Return the questions of the file `questions`, or else `question` about every row of the dataset.

    Raises UsageError if the file cannot be read or two questions have the same key.
    """
    if questions is not None:
        return list(_file_questions(Path(questions)))
    if index is None:
        return []
    return [Question(key, question or default_question(index.is_video(key)), (key,)) for key in index]


def _file_questions(path: Path) -> Iterator[Question]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        entries = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as questions: {error}") from error
    keys: set[str] = set()
    for number, entry in entries:
        question = _question(number, entry)
        if question.key in keys:
            raise UsageError(f"{path}: line {number}: key {question.key!r} is taken; give each question its own `key`")
        keys.add(question.key)
        yield question


def _question(number: int, entry: Any) -> Question:
    """Build the question of a line; bad fields refuse this question only."""
    fields = entry if isinstance(entry, dict) else {}
    key, text = str(fields.get("key", f"{number:06d}")), fields.get("question", fields.get("text"))
    images = fields.get("images", [fields[name] for name in ("image", "video") if name in fields])
    if not isinstance(text, str) or not text.strip():
        return Question(key, "", refusal=("bad_entry", f"line {number}: expected `question` with some text"))
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return Question(key, text, refusal=("bad_entry", f"line {number}: `images`: expected a list of keys"))
    try:
        "".join((key, text, *images)).encode()
    except UnicodeEncodeError as error:  # JSON can contain an unpaired surrogate, which UTF-8 cannot encode
        detail = f"line {number}: not valid Unicode: {error}"
        return Question(f"{number:06d}", "", refusal=("bad_entry", detail))
    return Question(key, text, tuple(images))


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
