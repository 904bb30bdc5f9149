"""Conversations about an image, in the manner of LLaVA: turns from `human` and `gpt`, `<image>` where it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import RefusedInput

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
MEDIA_MARKS = ("<image>", "<video>")


def conversation_extra(turns: object) -> Mapping[str, Any]:
    """What a row keeps of `[{from, value}, …]`: every turn in `conversations`, the first `question` and `answer`.

    `question` is without the image's mark. Raises RefusedInput `bad_entry`.
    """
    if not isinstance(turns, list) or not turns:
        raise RefusedInput("bad_entry", f"`conversations`: expected a list of {{from, value}}, got {turns!r:.100}")
    conversations = [_turn(number, turn) for number, turn in enumerate(turns, 1)]
    first: dict[str, str] = {}
    for turn in conversations:
        first.setdefault(turn["from"], turn["value"])
    if missing := [speaker for speaker in ("human", "gpt") if speaker not in first]:
        raise RefusedInput("bad_entry", f"`conversations`: expected a question and its answer, none from {missing[0]}")
    question = first["human"]
    for mark in MEDIA_MARKS:
        question = question.replace(mark, "")
    return {"conversations": conversations, "question": question.strip(), "answer": first["gpt"].strip()}


def _turn(number: int, turn: object) -> dict[str, str]:
    fields = turn if isinstance(turn, dict) else {}
    speaker, value = SPEAKERS.get(str(fields.get("from"))), fields.get("value")
    if speaker is None or not isinstance(value, str):
        expected = f"`from` one of {', '.join(SPEAKERS)} and a string `value`"
        raise RefusedInput("bad_entry", f"turn {number}: expected {expected}, got {turn!r:.100}")
    return {"from": speaker, "value": value}
