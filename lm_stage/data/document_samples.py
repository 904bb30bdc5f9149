"""Samples from a .jsonl file of documents, whose prompts and answers mix text with images of a codes dataset.

    {"text": "Tell a story about a cat.", "answer": "It slept. <image> It woke. <image>", "answer_images": ["a", "b"],
     "task": "story"}
    {"text": "Make it blue.", "images": ["apple"], "answer": "<image>", "answer_images": ["apple-blue"]}

`images` and `answer_images` are keys of the dataset, in the order of the `<image>` marks. Without marks, those of the
prompt go where the template of the task has them, and those of the answer go last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.data.dataset_samples import DatasetSamples
from lm_stage.data.sequences import EncodedTexts, SequenceBuilder, TrainingSequence
from lm_stage.text.entry_files import parse_key
from lm_stage.text.prompting import Prompting
from lm_stage.text.renderer import CodeGrid, interleave
from lm_stage.text.templates import ConversationTemplate
from shared.dataset.quarantine_reasons import DUPLICATE_KEY
from shared.errors import RefusedInput, UsageError
from shared.storage.digests import digest_of
from shared.storage.small_files import parse_json_object, read_small_file
from shared.text import is_text

FIELDS = {"key", "text", "images", "answer", "answer_images", "task"}


@dataclass(frozen=True, slots=True)
class ImageKey:
    """An image of a document, by its key in the dataset."""

    key: str


DocumentPart = str | ImageKey


@dataclass(frozen=True, slots=True)
class Document:
    """A prompt in its template and the answer to it; `unprompted` is the prompt without the user's text.

    The latter is None if the answer is not a single image, because guidance then needs no prompt without text.
    """

    key: str
    prompt: tuple[DocumentPart, ...]
    answer: tuple[DocumentPart, ...]
    unprompted: tuple[DocumentPart, ...] | None

    @property
    def images(self) -> set[str]:
        return {part.key for part in (*self.prompt, *self.answer) if isinstance(part, ImageKey)}


def read_document(key: str, fields: Mapping[str, Any], prompting: Prompting) -> Document:
    """Build a document from the fields of a line. Raises RefusedInput if they have another form."""
    if unknown := sorted(set(fields) - FIELDS):
        raise RefusedInput("bad_entry", f"unknown fields {', '.join(unknown)}; expected some of {sorted(FIELDS)}")
    text, images = _text(fields, "text"), _keys(fields, "images")
    given = interleave(_text(fields, "answer"), _keys(fields, "answer_images"), images_first=False)
    answer = tuple(part for part in given if part != "")
    if not answer:
        raise RefusedInput("bad_entry", "expected `answer` with some text or `answer_images`")
    is_image = len(answer) == 1 and isinstance(answer[0], ImageKey)
    template = _template(fields.get("task"), is_image, bool(images), prompting)
    prompt = interleave(text, images, template.images_first)
    repeated = images if prompting.repeats_images else ()
    return Document(
        key,
        in_template(template, prompt),
        answer,
        in_template(prompting.unconditional, repeated) if is_image else None,
    )


def _template(task: object, is_image: bool, has_images: bool, prompting: Prompting) -> ConversationTemplate:
    if task is not None:
        if (template := prompting.tasks.get(str(task))) is None:
            expected = ", ".join(prompting.tasks)
            raise RefusedInput("bad_entry", f"`task`: expected one of {expected} with this model, got {task!r:.100}")
        return template
    if is_image:
        return prompting.image_editing if has_images else prompting.text_to_image
    return prompting.chat


def in_template(template: ConversationTemplate, parts: Iterable[DocumentPart]) -> tuple[DocumentPart, ...]:
    """Return the parts of a prompt with the text around them; adjacent texts are joined, and empty ones left out."""
    joined: list[DocumentPart] = []
    for part in (template.opening(), *parts, template.question_suffix):
        if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
            joined[-1] = last + part
        elif part:
            joined.append(part)
    return tuple(joined)


def _text(fields: Mapping[str, Any], name: str) -> str:
    text = fields.get(name, "")
    if not is_text(text):
        raise RefusedInput("bad_entry", f"`{name}`: expected text, got {text!r:.100}")
    return str(text)


def _keys(fields: Mapping[str, Any], name: str) -> tuple[ImageKey, ...]:
    keys = fields.get(name, [])
    if not isinstance(keys, list) or not all(map(is_text, keys)):
        raise RefusedInput("bad_entry", f"`{name}`: expected a list of keys, got {keys!r:.100}")
    return tuple(map(ImageKey, keys))


class DocumentSamples:
    """The documents of a file with their images; one whose images the dataset does not have is left out.

    So is one with a bad key, with the key of an earlier line, or without a token that the loss covers. `unusable` has
    keys and reasons. Raises UsageError, naming the line, for a line that is not an object.
    """

    has_videos = False
    without_text: Sequence[str] = ()

    def __init__(self, path: Path, images: Path, builder: SequenceBuilder, keeps_damaged: bool):
        content = read_small_file(path, path.stat().st_size if path.exists() else 0)
        self.builder = builder
        self.images = DatasetSamples(images, builder, ["image"], keeps_damaged)
        self.codec = self.images.codec
        described = {"documents": hashlib.sha256(content).hexdigest(), "images": self.images.fingerprint}
        self.fingerprint = digest_of(described)
        self.unusable: list[tuple[str, str]] = []
        self._image_numbers = {key: number for number, key in enumerate(self.images.keys)}
        self.documents = list(self._usable(path, content))
        self.keys = [document.key for document in self.documents]
        runs = [parts for one in self.documents for parts in (one.prompt, one.answer, one.unprompted or ())]
        texts = [part for parts in runs for part in parts if isinstance(part, str)]
        self._encoded = EncodedTexts(texts, len(texts), builder.encode, path.name)
        self._number_of = {text: number for number, text in reversed(list(enumerate(texts)))}
        self._grid_lengths = self.images.grid_lengths()
        lengths = [self._length(one.prompt, one.answer) for one in self.documents]
        captionless = [self._length(one.unprompted or one.prompt, one.answer) for one in self.documents]
        self.lengths, self.captionless_lengths = np.array(lengths, np.int64), np.array(captionless, np.int64)

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        document = self.documents[index]
        prompt = document.unprompted if drop_caption and document.unprompted else document.prompt
        return self.builder.document(map(self._part, prompt), map(self._part, document.answer))

    def _usable(self, path: Path, content: bytes) -> Iterator[Document]:
        lines: dict[str, int] = {}
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            key, where = f"{path.name}#{number}", f"{path}: line {number}"
            fields = {name: one for name, one in parse_json_object(line, where, UsageError).items() if one is not None}
            try:
                if "key" in fields:
                    key = parse_key(fields["key"])
                if (first := lines.setdefault(key, number)) != number:
                    raise RefusedInput(DUPLICATE_KEY, f"line {number}: key {key!r} is taken by line {first}")
                yield self._document(key, fields)
            except RefusedInput as refusal:
                self.unusable.append((key, refusal.detail))

    def _document(self, key: str, fields: Mapping[str, Any]) -> Document:
        """Raises RefusedInput for a bad field, an image that the dataset lacks, and an answer without a loss."""
        document = read_document(key, fields, self.builder.prompting)
        if missing := sorted(document.images - self._image_numbers.keys()):
            raise RefusedInput("missing_image", f"{self.images.rows.dataset.root} has no image {missing[0]!r}")
        if not self.builder.loss.of_other and not any(isinstance(part, ImageKey) for part in document.answer):
            raise RefusedInput("bad_entry", "its answer has no image, and --loss visual covers only codes")
        return document

    def _part(self, part: DocumentPart) -> np.ndarray | CodeGrid:
        if isinstance(part, ImageKey):
            return self.images.grid(self._image_numbers[part.key])
        return self._encoded[self._number_of[part]]

    def _length(self, prompt: Iterable[DocumentPart], answer: Iterable[DocumentPart]) -> int:
        return self.builder.tokens_around + sum(map(self._part_length, (*prompt, *answer)))

    def _part_length(self, part: DocumentPart) -> int:
        if isinstance(part, ImageKey):
            return int(self._grid_lengths[self._image_numbers[part.key]])
        return int(self._encoded.lengths[self._number_of[part]])
