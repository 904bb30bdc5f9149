"""What there is to ask: one question about every image or video of a dataset, or JSON lines of questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_stage.text.templates import default_question
from shared.dataset.readers import KeyReader
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `images` are keys of images or videos of the dataset, `refusal` says why it cannot be asked."""

    key: str
    text: str
    images: tuple[str, ...] = ()
    refusal: str | None = None


def list_questions(question: str | None, questions: str | None, index: KeyReader | None) -> Iterator[Question]:
    """One question about every row of a dataset, or the lines of a file. Raises UsageError if they cannot be read."""
    if questions is None:
        for key in index or ():
            text = question or default_question(index is not None and index.is_video(key))
            yield Question(key, text, (key,))
        return
    path, seen = Path(questions), set()
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        entries = [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as questions: {error}") from error
    for number, entry in entries:
        asked = _question(number, entry)
        if asked.key in seen:
            raise UsageError(f"{path}: line {number}: key {asked.key!r} is taken; give each question its own `key`")
        seen.add(asked.key)
        yield asked


def _question(number: int, entry: Any) -> Question:
    fields = entry if isinstance(entry, dict) else {}
    one = [fields[name] for name in ("image", "video") if name in fields]
    images = fields.get("images", one)
    text, key = fields.get("question", fields.get("text")), str(fields.get("key", f"{number:06d}"))
    if not isinstance(text, str) or not text.strip():
        return Question(key, "", refusal=f"bad_entry: line {number}: expected `question` with some text")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return Question(key, text, refusal=f"bad_entry: line {number}: `images`: expected a list of keys")
    try:
        "".join((key, text, *images)).encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which is no text
        return Question(f"{number:06d}", "", refusal=f"bad_entry: line {number}: not text: {error}")
    return Question(key, text, tuple(images))
