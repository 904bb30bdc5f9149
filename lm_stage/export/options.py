"""The settings of an export of token sequences, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lm_stage.data.options import SEQUENCE_CHECKS, Check, SequenceOptions, failed_checks, mixture_problems
from shared.errors import UsageError

FORMATS = ("megatron", "mindrecord")
DOCUMENTS = ("sample", "row")


@dataclass(frozen=True, slots=True)
class SequenceExportOptions(SequenceOptions):
    """What to export, where to and how. What they share with `SftOptions` means the same.

    `documents` is what a document of `megatron` holds: one sample, or a packed row of exactly `seq_length` tokens. A
    record of `mindrecord` is always such a row. Raises UsageError, with every problem, for settings that cannot work.
    """

    out: str
    format: str
    documents: str | None = None
    epochs: int = 1

    def __post_init__(self) -> None:
        if problems := failed_checks(self, CHECKS) + mixture_problems(self.entries, self.weights):
            raise UsageError("; ".join(problems))

    @property
    def has_rows(self) -> bool:
        """Whether samples are packed into rows of one length."""
        return self.format == "mindrecord" or self.documents == "row"

    def recorded(self) -> dict[str, Any]:
        """Return the options that, with the data and the vocabulary, determine every byte."""
        return {
            "written_as": self.format,
            "documents": "row" if self.has_rows else "sample",
            "epochs": self.epochs,
            "seq_length": self.seq_length,
            "loss": self.loss,
            "visual_weight": self.visual_weight,
            "caption_dropout": self.caption_dropout,
            "seed": self.seed,
        }


CHECKS: tuple[Check[SequenceExportOptions], ...] = (
    *SEQUENCE_CHECKS,
    ("format", f"one of {', '.join(FORMATS)}", lambda o: o.format in FORMATS),
    ("documents", f"one of {', '.join(DOCUMENTS)}", lambda o: o.documents in (None, *DOCUMENTS)),
    ("documents", "none with mindrecord, which has rows", lambda o: o.documents is None or o.format != "mindrecord"),
    ("epochs", "at least 1", lambda o: o.epochs >= 1),
)


@dataclass(frozen=True, slots=True)
class SequenceExportResult:
    """What the folder holds; `is_new` is false if it was already there.

    `documents` are samples or rows, and `tokens` count the padding of rows. `supervised` tokens have a weight in the
    loss. `too_long` samples fit no row, and `damaged` ones were skipped.
    """

    documents: int
    samples: int
    tokens: int
    supervised: int
    size_bytes: int
    too_long: int
    damaged: int
    is_new: bool
