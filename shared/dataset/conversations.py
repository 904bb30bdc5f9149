"""Conversations about an image or a video in LLaVA's form: a list of `{"from": SPEAKER, "value": TEXT}`.

An optional system turn comes first; then `human` and `gpt` alternate, every question with its answer. `<image>` and
`<video>` mark where the picture was inserted. The encode job stores the conversation of each input in `extra_json`
and quarantines every other order of turns, so that training can render each stored conversation.

Source: LLaVA, docs/Finetune_Custom_Data.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import RefusedInput

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
MEDIA_MARKS = ("<image>", "<video>")


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """At least one turn, and the system prompt if the conversation has its own."""

    turns: tuple[Turn, ...]
    system: str | None = None

    @classmethod
    def from_json(cls, value: object) -> Conversation:
        """Parse a list of turns. Raises RefusedInput `bad_entry` if they have another form or order."""
        if not isinstance(value, list) or not value:
            raise RefusedInput("bad_entry", f"`conversations`: expected a list of {{from, value}}, got {value!r:.100}")
        speakers, texts = zip(*(_speaker_and_text(number, turn) for number, turn in enumerate(value, 1)))
        first = 1 if speakers[0] == "system" else 0
        spoken = speakers[first:]
        if not spoken or spoken != ("human", "gpt") * (len(spoken) // 2):
            raise RefusedInput(
                "bad_entry",
                "`conversations`: expected at most one system turn, then human and gpt in turn, got"
                f" {', '.join(speakers)}",
            )
        turns = tuple(map(Turn, texts[first::2], texts[first + 1 :: 2]))
        return cls(turns, texts[0] if first else None)

    def to_json(self) -> list[dict[str, str]]:
        """Return the turns with the standard names of their speakers."""
        system = [] if self.system is None else [("system", self.system)]
        spoken = [pair for turn in self.turns for pair in (("human", turn.question), ("gpt", turn.answer))]
        return [{"from": speaker, "value": text} for speaker, text in [*system, *spoken]]


def _speaker_and_text(number: int, turn: object) -> tuple[str, str]:
    fields = turn if isinstance(turn, dict) else {}
    speaker, text = SPEAKERS.get(str(fields.get("from"))), fields.get("value")
    if speaker is None or not isinstance(text, str):
        expected = f"`from` one of {', '.join(SPEAKERS)} and a string `value`"
        raise RefusedInput("bad_entry", f"turn {number}: expected {expected}, got {turn!r:.100}")
    return speaker, text


def conversation_extra(value: object) -> Mapping[str, Any]:
    """Return what a row keeps of a conversation: all turns, and the first question and answer without media marks.

    Raises RefusedInput `bad_entry`.
    """
    conversation = Conversation.from_json(value)
    first = conversation.turns[0]
    question, answer = without_media_marks(first.question).strip(), first.answer.strip()
    return {"conversations": conversation.to_json(), "question": question, "answer": answer}


def without_media_marks(text: str) -> str:
    """Return a text without media marks and without the blank line that a mark leaves."""
    unmarked = text
    for mark in MEDIA_MARKS:
        unmarked = unmarked.replace(mark, "")
    return text if unmarked == text else unmarked.strip()
