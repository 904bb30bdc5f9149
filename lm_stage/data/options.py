"""What a mixture consists of and what the loss covers, as users state them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lm_stage.model.options import EMBEDDED_MODEL
from shared.errors import UsageError
from shared.tokens.grid_formats import VIDEO_FORMATS

ROW_TASKS = ("image", "video", "understand", "text")  # whose samples come from the rows of a dataset
TASKS = (*ROW_TASKS, "document")
ENTRY_FORM = f"PATH[,task={'|'.join(TASKS)}][,weight=NUMBER][,images=DATASET]"
LOSSES = ("after_prompt", "visual", "text")
Options = TypeVar("Options")
# Name of the option, the value expected, and a test of the options.
Check = tuple[str, str, Callable[[Options], object]]

# Of every job that builds training sequences.
SEQUENCE_CHECKS: tuple[Check[Any], ...] = (
    ("seq_length", "at least 1", lambda o: o.seq_length >= 1),
    ("loss", f"one of {', '.join(LOSSES)}", lambda o: o.loss in LOSSES),
    ("visual_weight", "at least 0", lambda o: 0 <= o.visual_weight < math.inf),
    ("video_template", f"one of {', '.join(VIDEO_FORMATS)}", lambda o: o.video_template in VIDEO_FORMATS),
    ("caption_dropout", "0 to 1", lambda o: 0 <= o.caption_dropout <= 1),
    ("seed", "at least 0", lambda o: o.seed >= 0),
)


@dataclass(frozen=True, slots=True)
class MixtureEntry:
    """One dataset of a mixture, given as `PATH[,task=TASK][,weight=W][,images=DATASET]`.

    Every epoch contains each sample `weight` times: 0.5 takes half of them, 2 takes each twice. `images` is the
    dataset of the images in documents.
    """

    path: str
    task: str = "image"
    weight: float = 1.0
    images: str | None = None

    @property
    def is_generation(self) -> bool:
        """Whether images or videos are in the answer rather than in the question."""
        return self.task in ("image", "video", "document")

    @classmethod
    def parse(cls, text: str) -> MixtureEntry:
        """Raises UsageError if the text has another form."""
        path, *settings = text.split(",")
        fields: dict[str, Any] = dict(setting.partition("=")[::2] for setting in settings)
        if not path or set(fields) - {"task", "weight", "images"} or len(fields) < len(settings):
            raise UsageError(f"dataset {text!r}: expected {ENTRY_FORM}, each setting once")
        try:
            entry = cls(path, **{**fields, "weight": float(fields.get("weight", 1))})
        except ValueError:
            raise UsageError(f"dataset {text!r}: weight: expected a number, got {fields['weight']!r}") from None
        if entry.task not in TASKS or not 0 < entry.weight < math.inf:
            raise UsageError(f"dataset {text!r}: expected a task of {', '.join(TASKS)} and a weight above 0")
        if (entry.task == "document") != bool(entry.images):
            raise UsageError(f"dataset {text!r}: expected images=DATASET with task=document, and with no other task")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOptions:
    """What determines training sequences and their rows: a mixture, the model whose vocabulary they have, the loss."""

    datasets: tuple[str, ...] = field(kw_only=False)
    model: str = str(EMBEDDED_MODEL)
    seq_length: int = 1024
    loss: str = "after_prompt"
    visual_weight: float = 1.0
    video_template: str = "univla"
    caption_dropout: float = 0.05
    seed: int = 0
    skip_damaged: bool = False

    @property
    def weights(self) -> LossWeights:
        return LossWeights(self.loss, self.visual_weight)

    @property
    def entries(self) -> list[MixtureEntry]:
        return [MixtureEntry.parse(text) for text in self.datasets]


def failed_checks(options: object, checks: Iterable[Check[Any]]) -> list[str]:
    """Return a problem for each check that options do not pass."""
    return [
        f"--{name.replace('_', '-')}: expected {expected}, got {_shown(getattr(options, name))}"
        for name, expected, is_valid in checks
        if not is_valid(options)
    ]


def mixture_problems(entries: Sequence[MixtureEntry], weights: LossWeights) -> list[str]:
    """Return a problem for each entry of which no token has a weight in the loss, or one if there is no entry."""
    problems = [] if entries else ["DATASETS: expected at least one, got none"]
    for entry in entries:
        weight, kind = (weights.of_visual, "codes") if entry.is_generation else (weights.of_other, "text")
        if not weight and not (entry.task == "document" and weights.of_other):
            problems.append(
                f"{entry.path}: task {entry.task} has no {kind} to learn with --loss {weights.over} --visual-weight"
                f" {weights.visual}; leave it out or choose another --loss"
            )
    return problems


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
