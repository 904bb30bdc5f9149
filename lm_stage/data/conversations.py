"""What is said about an image or a video, turn after turn, as `extra_json` and the caption of its row have it."""

from __future__ import annotations

import json
from typing import Any

from lm_stage.text.templates import DEFAULT_QUESTION, DEFAULT_VIDEO_QUESTION, IMAGE_MARK
from shared.errors import DatasetError

VIDEO_MARK = "<video>"
SPEAKERS = ["human", "gpt"]
Turn = tuple[str, str]  # question, answer


def turns_of_row(where: str, extra_json: str | None, caption: str | None, is_video: bool) -> list[Turn]:
    """The `conversations` of a row, or its `question` and `answer`; the caption answers what has no answer.

    Raises DatasetError, beginning with `where`, if `extra_json` is not what an encode job writes.
    """
    try:
        extra = json.loads(extra_json) if extra_json else {}
        question, answer, said = extra.get("question"), extra.get("answer"), extra.get("conversations")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{where}: extra_json: expected a JSON object: {error}") from error
    if said is not None:
        return _conversation(f"{where}: conversations", said)
    question = default_question(is_video) if question is None else question
    answer = caption or "" if answer is None else answer
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DatasetError(f"{where}: extra_json: expected `question` and `answer` as text")
    return [(question, answer)]


def default_question(is_video: bool) -> str:
    """Asked where there is no question."""
    return DEFAULT_VIDEO_QUESTION if is_video else DEFAULT_QUESTION


def _conversation(where: str, said: Any) -> list[Turn]:
    """Turns of `[{"from": "human" | "gpt", "value"}]`, as LLaVA's data has them."""
    try:
        speakers, values = [one["from"] for one in said], [_without_marks(one["value"]) for one in said]
    except (TypeError, LookupError, AttributeError) as error:
        raise DatasetError(f"{where}: expected a list of {{from, value}}: {error!r}") from error
    if speakers != SPEAKERS * (len(said) // 2):
        raise DatasetError(f"{where}: expected human and gpt in turn, got {', '.join(map(str, speakers))}")
    return list(zip(values[::2], values[1::2]))


def _without_marks(value: str) -> str:
    """Without marks of where the image stands, and the line that one leaves empty: the image goes first."""
    unmarked = value.replace(IMAGE_MARK, "").replace(VIDEO_MARK, "")
    return value if unmarked == value else unmarked.strip()
