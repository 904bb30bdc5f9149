"""The annotations of one image or video: captions, conversations and labels, under any of their accepted names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared.dataset.conversations import Conversation, Turn, conversations_extra
from shared.errors import RefusedInput
from shared.storage.digests import canonical_json
from vq_stage.sources.field_names import (
    CAPTION_NAMES,
    CONVERSATION_NAMES,
    fields_by_spelling,
    first_value,
    texts_of,
)
from vq_stage.sources.media_source import MediaItem, as_extra_json


@dataclass(frozen=True, slots=True)
class Annotation:
    """The first text becomes the caption of the row; `labels` go to its `extra_json` as they are."""

    texts: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], labels: Mapping[str, Any] | None = None) -> Annotation:
        """Read captions and conversations. Raises RefusedInput `bad_entry` if one has the wrong form."""
        captions = captions_in(fields)
        conversations: tuple[Conversation, ...] = ()
        question, answer = first_value(fields, ("question",)), first_value(fields, ("answer",))
        if (value := first_value(fields, CONVERSATION_NAMES)) is not None:
            conversations = (Conversation.parse(value),)
        elif isinstance(question, str) and isinstance(answer, str) and answer.strip():
            conversations = (Conversation((Turn(question, answer),)),)
        return cls(captions, conversations, labels or {})

    def add_to(self, item: MediaItem) -> MediaItem:
        """Return the item with this annotation; all texts are kept if there are several."""
        texts = list(dict.fromkeys(self.texts))
        extra = {**self.labels, **conversations_extra(self.conversations)}
        if len(texts) > 1:
            extra["texts"] = texts
        return replace(item, text=texts[0] if texts else None, extra_json=as_extra_json(extra))


def captions_in(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of the first caption field that has any. Raises RefusedInput `bad_entry`."""
    for same in fields_by_spelling(fields, CAPTION_NAMES):
        texts: list[str] = []
        for name in same:
            try:
                texts += texts_of(fields[name])
            except ValueError as error:
                raise RefusedInput("bad_entry", f"`{name}`: {error}") from error
        if texts:
            return tuple(texts)
    return ()


def merged(items: Sequence[MediaItem]) -> MediaItem:
    """Return the first item with the captions and conversations of all of them, and with the first value of a label."""
    if len(items) == 1:
        return items[0]
    texts: list[str] = []
    conversations: list[Any] = []
    labels: dict[str, Any] = {}
    for item in items:
        extra = json.loads(item.extra_json) if item.extra_json else {}
        texts += extra.pop("texts", [item.text] if item.text else [])
        conversations += [extra.pop("conversations", None), *extra.pop("other_conversations", [])]
        labels = {**extra, **labels}
    distinct = {canonical_json(turns): Conversation.from_json(turns) for turns in conversations if turns}
    return Annotation(tuple(texts), tuple(distinct.values()), labels).add_to(items[0])
