"""Samples from a .jsonl file: plain texts, or questions with their answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_stage.data.sequences import EncodedTexts, SequenceBuilder, TrainingSequence
from shared.codec import Codec
from shared.errors import UsageError
from shared.storage.small_files import parse_json_object, read_small_file


class TextSamples:
    """The lines of a file, `{"text"}` or `{"question", "answer"}` each. Raises UsageError, naming a bad line."""

    codec: Codec | None = None
    has_videos = False
    without_text: Sequence[str] = ()

    def __init__(self, path: Path, builder: SequenceBuilder):
        content = read_small_file(path, path.stat().st_size if path.exists() else 0)
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.builder = builder
        self.unusable: list[tuple[str, str]] = []
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
        entries = [_question_and_text(f"{path}: line {number}", line) for number, line in lines]
        self.keys = [f"{path.name}#{number}" for number, _ in lines]
        self.has_question = [question is not None for question, _ in entries]
        chat = builder.prompting.chat
        prompts = (None if question is None else chat.question_text(question) for question, _ in entries)
        self.prompts = EncodedTexts(prompts, len(entries), builder.encode, path.name)
        self.texts = EncodedTexts((text for _, text in entries), len(entries), builder.encode, path.name)
        around = np.where(self.has_question, builder.tokens_around, 2)  # of a text, BOS and EOS
        self.lengths = self.texts.lengths + self.prompts.lengths + around
        self.captionless_lengths = self.lengths

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        if self.has_question[index]:
            return self.builder.conversation([(self.prompts[index], self.texts[index])], None)
        return self.builder.text(self.texts[index])


def _question_and_text(where: str, line: bytes) -> tuple[str | None, str]:
    """Return the fields of a line; one that is null is absent."""
    fields = {name: value for name, value in parse_json_object(line, where).items() if value is not None}
    question, text = fields.get("question"), fields.get("answer" if "question" in fields else "text")
    if not isinstance(text, str) or not text or not isinstance(question, str | None):
        raise UsageError(f"{where}: expected {{text}} or {{question, answer}}, non-empty strings, got {line[:100]!r}")
    try:
        f"{question}{text}".encode()  # JSON can contain an unpaired surrogate, which is not text
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: not valid Unicode: {error}") from error
    return question, text
