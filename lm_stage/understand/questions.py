"""The questions of a job, listed and rendered to requests for the text generator.

They are one question about every image or video of a dataset, or those of a JSON lines file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from lm_stage.inference.text_generator import TextRequest
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.text.entry_files import entry_fields, json_entries, parse_key, parse_keys, parse_text
from lm_stage.text.renderer import CodeGrid, SequenceRenderer, interleave
from lm_stage.text.templates import default_question
from lm_stage.understand.options import UnderstandOptions
from shared.dataset.quarantine_reasons import DUPLICATE_KEY, WORKER_DIED
from shared.dataset.readers import KeyReader
from shared.errors import RefusedInput
from shared.jobs.job import ignore
from shared.storage.json_values import JsonValue

# Tokens of a question and its answer: one graph is compiled for each length.
CACHE_LENGTHS = tuple(256 * 2**power for power in range(12))
KEY_FIELDS, TEXT_FIELDS = ("key", "id", "question_id"), ("question", "text", "prompt")
FIELDS = (*KEY_FIELDS, *TEXT_FIELDS, "images", "image", "video")
DIED = f"{WORKER_DIED}: the worker died each time it reached this question"


@dataclass(frozen=True, slots=True)
class Question:
    """One question, or a refused one: `refusal` is then (reason, detail).

    `images` are keys of images or videos in the dataset.
    """

    key: str
    text: str
    images: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None


def list_questions(
    question: str | None,
    questions: str | None,
    index: KeyReader | None,
    report: Callable[[str], object] = ignore,
    key_fields: Sequence[str] = KEY_FIELDS,
) -> list[Question]:
    """Return the questions of the file `questions`, or else `question` about every row of the dataset.

    `report` receives a line about fields that have no meaning here; `key_fields` are the names of the field with the
    key. Raises UsageError if the file cannot be read.
    """
    if questions is not None:
        return _file_questions(Path(questions), report, key_fields)
    if index is None:
        return []
    return [Question(key, question or default_question(index.is_video(key)), (key,)) for key in index]


def _file_questions(path: Path, report: Callable[[str], object], key_fields: Sequence[str]) -> list[Question]:
    """Return the questions of a file; a bad one, or one whose key is taken, is refused alone."""
    listed: dict[str, Question] = {}
    lines: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for entry in json_entries(path):
        question, others = _question(entry, key_fields)
        unknown.update(others)
        if question.key in listed:
            detail = f"{entry.where}: key {question.key!r} is taken by {lines[question.key]}"
            question = Question(_free_key(entry, listed), question.text, refusal=(DUPLICATE_KEY, detail))
        listed[question.key], lines[question.key] = question, entry.where
    if unknown:
        names = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items()))
        report(f"{path}: fields that have no meaning here were ignored: {names}; known are {', '.join(FIELDS)}")
    return list(listed.values())


def _free_key(entry: JsonValue, taken: Container[str]) -> str:
    return next(key for key in (f"{entry.where} ({n})" for n in count(1)) if key not in taken)


def _question(entry: JsonValue, key_fields: Sequence[str]) -> tuple[Question, set[str]]:
    """Return the question of an entry, and the names of its fields that have no meaning."""
    key, text = f"{entry.number:06d}", ""
    if isinstance(entry.value, str):
        entry = replace(entry, value={"question": entry.value})
    try:
        fields = entry_fields(entry)
        key = parse_key(_first(fields, key_fields, key))
        text = parse_text("question", _first(fields, TEXT_FIELDS, ""))
        if not text.strip():
            raise RefusedInput("empty_prompt", "expected `question` with some text")
        images = fields.get("images", [fields[name] for name in ("image", "video") if name in fields])
        return Question(key, text, parse_keys("images", images)), set(fields) - set(FIELDS)
    except RefusedInput as refusal:
        return Question(key, "", refusal=(refusal.reason, f"{entry.where}: {refusal.detail}")), set()


def _first(fields: Mapping[str, Any], names: Sequence[str], default: str) -> Any:
    return next((fields[name] for name in names if name in fields), default)


class QuestionRenderer:
    """Renders questions for one model; `images` is the dataset of the images and videos they are about."""

    def __init__(self, model: ModelDirectory, images: KeyReader | None, options: UnderstandOptions):
        self.images = images
        self.options = options
        self.max_positions = model.config.max_position_embeddings
        self.template = model.prompting.question_template(options.template)
        self.sequences = SequenceRenderer(model.text_tokenizer, model.layout, options.video_format, model.prompting)

    def request(self, question: Question) -> TextRequest:
        """Render a question, leaving room for as many new tokens as the options and the model allow.

        Raises RefusedInput with the reason of the question's own refusal, or `missing_image`, `bad_images`, `too_long`.
        """
        if question.refusal:
            raise RefusedInput(*question.refusal)
        grids = [self._grid(key) for key in question.images]
        parts = interleave(question.text, grids, self.template.images_first)
        prompt_ids = self.sequences.question_prompt(parts, self.template).tolist()
        room = self.max_positions - len(prompt_ids)
        if room < 1:
            raise RefusedInput("too_long", f"{len(prompt_ids)} tokens, the model has {self.max_positions} positions")
        return TextRequest(question.key, prompt_ids, min(room, self.options.max_new_tokens), self.options.seed)

    def cache_length(self, request: TextRequest) -> int:
        """Return the length of the KV cache for a question and its answer."""
        lengths = (length for length in CACHE_LENGTHS if request.length <= length <= self.max_positions)
        return next(lengths, self.max_positions)

    def _grid(self, key: str) -> CodeGrid:
        if self.images is None:
            raise RefusedInput("missing_image", "the question contains images; give the DATASET that holds them")
        if self.images.is_video(key):
            return CodeGrid.video(self.images.clip(key).codes_THW)
        return CodeGrid.image(self.images.image(key))
