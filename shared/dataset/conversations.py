"""Conversations about an image or a video: as sources have them, and as rows keep them.

Sources have lists of `{"from": SPEAKER, "value": TEXT}` (LLaVA) or of `{"role": SPEAKER, "content": TEXT or PARTS}`
(OpenAI). The encode job brings each into one form, in which an optional system prompt comes first and then questions
and answers alternate, and stores it in `extra_json`, so that training can render every stored conversation:

- consecutive turns of one speaker are joined, each on its own line, except those without text;
- a system turn without text is ignored;
- answers before the first question are dropped, and so is a question whose answer is missing or has no text;
- a system turn after the first question, an unknown speaker, or no question with an answer at all is refused.

`<image>` and `<video>` mark where the picture was inserted.

Sources: LLaVA, docs/Finetune_Custom_Data.md, and train.py for the dropped answers; OpenAI, API reference of chat
completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from shared.errors import RefusedInput

SPEAKERS = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot"), "gpt"),
    **dict.fromkeys(("system", "developer"), "system"),
}
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
    def parse(cls, value: object) -> Conversation:
        """Parse a conversation of a source by the rules above. Raises RefusedInput `bad_entry`."""
        spoken = _spoken(value)
        told = [(speaker, text) for speaker, text in spoken if speaker != "system" or text.strip()]
        joined = [(speaker, _joined(text for _, text in turns)) for speaker, turns in groupby(told, lambda one: one[0])]
        system = joined.pop(0)[1] if joined and joined[0][0] == "system" else None
        if any(speaker == "system" for speaker, _ in joined):
            raise _refused(spoken, "at most one system turn, before the first question")
        if joined and joined[0][0] == "gpt":
            joined.pop(0)
        texts = [text for _, text in joined]
        turns = tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2]) if answer)
        if not turns:
            raise _refused(spoken, "a question of the human and an answer of gpt")
        return cls(turns, system)

    @classmethod
    def from_json(cls, value: object) -> Conversation:
        """Read a stored conversation. Raises RefusedInput `bad_entry` if its turns have another form or order."""
        spoken = _spoken(value)
        first = 1 if spoken[0][0] == "system" else 0
        speakers, texts = zip(*spoken)
        if not spoken[first:] or speakers[first:] != ("human", "gpt") * (len(spoken[first:]) // 2):
            raise _refused(spoken, "at most one system turn, then human and gpt in turn")
        turns = tuple(map(Turn, texts[first::2], texts[first + 1 :: 2]))
        return cls(turns, texts[0] if first else None)

    def to_json(self) -> list[dict[str, str]]:
        """Return the turns with the standard names of their speakers."""
        system = [] if self.system is None else [("system", self.system)]
        spoken = [pair for turn in self.turns for pair in (("human", turn.question), ("gpt", turn.answer))]
        return [{"from": speaker, "value": text} for speaker, text in [*system, *spoken]]


def conversations_extra(conversations: Sequence[Conversation]) -> Mapping[str, Any]:
    """Return what a row keeps of its conversations; nothing if it has none.

    `conversations` has the turns of the first, `question` and `answer` its first turn without media marks, and
    `other_conversations` has the turns of each of the others.
    """
    if not conversations:
        return {}
    turn = conversations[0].turns[0]
    question, answer = without_media_marks(turn.question).strip(), turn.answer.strip()
    others = [one.to_json() for one in conversations[1:]]
    return {
        "conversations": conversations[0].to_json(),
        "question": question,
        "answer": answer,
        **({"other_conversations": others} if others else {}),
    }


def media_parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield (kind, location) of the images and videos that the parts of a conversation's turns name."""
    for turn in value if isinstance(value, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and (kind := _media_kind(part)):
                location = part.get(f"{kind}_url") or part.get(kind)
                yield kind, location.get("url") if isinstance(location, dict) else location


def without_media_marks(text: str) -> str:
    """Return a text without media marks and without the blank line that a mark leaves."""
    unmarked = text
    for mark in MEDIA_MARKS:
        unmarked = unmarked.replace(mark, "")
    return text if unmarked == text else unmarked.strip()


def _spoken(value: object) -> list[tuple[str, str]]:
    """Return (speaker, text) of every turn; at least one."""
    if not isinstance(value, list) or not value:
        raise RefusedInput("bad_entry", f"`conversations`: expected a list of {{from, value}}, got {value!r:.100}")
    return [_speaker_and_text(number, turn) for number, turn in enumerate(value, 1)]


def _speaker_and_text(number: int, turn: object) -> tuple[str, str]:
    fields = turn if isinstance(turn, dict) else {}
    name = fields.get("from") or fields.get("role")
    speaker, text = SPEAKERS.get(str(name).lower()), _text(fields)
    if speaker is None or text is None:
        expected = f"`from` one of {', '.join(SPEAKERS)} and a string `value`, or `role` and `content`"
        raise RefusedInput("bad_entry", f"turn {number}: expected {expected}, got {turn!r:.100}")
    return speaker, text


def _text(fields: Mapping[str, Any]) -> str | None:
    """Return the text of a turn, its parts joined; empty if it is null, None if it is something else."""
    names = [name for name in ("value", "content", "text") if name in fields]
    if not names:
        return None
    value = next((fields[name] for name in names if fields[name] is not None), "")
    if isinstance(value, list):
        parts = [_part_text(part) for part in value]
        return None if None in parts else _joined(map(str, parts))
    return value if isinstance(value, str) else None


def _part_text(part: object) -> str | None:
    if isinstance(part, dict):
        kind = _media_kind(part)
        part = f"<{kind}>" if kind else part.get("text")
    return part if isinstance(part, str) else None


def _media_kind(part: Mapping[str, Any]) -> str | None:
    """Return whether a part is an `image` or a `video`; None if it is neither. Tables have all fields, some null."""
    for kind in ("image", "video"):
        if kind in str(part.get("type")) or part.get(kind) is not None or part.get(f"{kind}_url") is not None:
            return kind
    return None


def _joined(texts: Iterator[str]) -> str:
    return "\n".join(text for text in texts if text.strip())


def _refused(spoken: Sequence[tuple[str, str]], expected: str) -> RefusedInput:
    speakers = ", ".join(speaker for speaker, _ in spoken[:20])
    return RefusedInput("bad_entry", f"`conversations`: expected {expected}, got {speakers}")
