"""What a mixture consists of and what the loss covers, as users state them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shared.errors import UsageError

TASKS = ("image", "video", "understand", "text")
LOSSES = ("after_prompt", "visual", "text")


@dataclass(frozen=True, slots=True)
class MixtureEntry:
    """One dataset of a mixture, given as `PATH[,task=image|video|understand|text][,weight=W]`.

    Every epoch contains each sample `weight` times: 0.5 takes half of them, 2 takes each twice.
    """

    path: str
    task: str = "image"
    weight: float = 1.0

    @property
    def is_generation(self) -> bool:
        """Whether the image or video is the answer rather than part of the question."""
        return self.task in ("image", "video")

    @classmethod
    def parse(cls, text: str) -> MixtureEntry:
        """Raises UsageError if the text has another form."""
        path, *settings = text.split(",")
        fields: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings)
        if not path or set(fields) - {"task", "weight"}:
            raise UsageError(f"dataset {text!r}: expected PATH[,task={'|'.join(TASKS)}][,weight=NUMBER]")
        try:
            entry = cls(path, **{**fields, "weight": float(fields.get("weight", 1))})
        except ValueError:
            raise UsageError(f"dataset {text!r}: weight: expected a number, got {fields['weight']!r}") from None
        if entry.task not in TASKS or not 0 < entry.weight < math.inf:
            raise UsageError(f"dataset {text!r}: expected a task of {', '.join(TASKS)} and a weight above 0")
        return entry


@dataclass(frozen=True, slots=True)
class LossWeights:
    """The weight of a supervised token by its type.

    `over` selects the supervised tokens: `visual` and `text` set the weight of the other type to zero, `after_prompt`
    keeps both.
    """

    over: str = "after_prompt"
    visual: float = 1.0

    @property
    def of_visual(self) -> float:
        return 0.0 if self.over == "text" else self.visual

    @property
    def of_other(self) -> float:
        """The weight of text and control tokens."""
        return 0.0 if self.over == "visual" else 1.0
