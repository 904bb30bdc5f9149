"""The training mixture: samples of one or more datasets, each with a task and a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from lm_stage.data.samples import SampleSet, open_samples
from lm_stage.data.sequences import TASKS, SequenceBuilder
from shared.errors import UsageError


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


class OversizedSample(NamedTuple):
    """A sample longer than a row."""

    path: str
    key: str
    length: int


class Mixture:
    """The samples of all entries; `sample_indices` holds, for each entry, those that fit a row of `seq_length` tokens.

    Raises UsageError if no sample of an entry fits.
    """

    def __init__(
        self, entries: Sequence[MixtureEntry], builder: SequenceBuilder, seq_length: int, keeps_damaged: bool = False
    ):
        self.entries = list(entries)
        self.sample_sets = [open_samples(one.path, one.task, builder, keeps_damaged) for one in entries]
        self.builder = builder
        self.seq_length = seq_length
        self.sample_indices: list[np.ndarray] = []
        self.too_long: list[OversizedSample] = []
        for entry, samples in self.pairs():
            fits = samples.lengths <= seq_length
            if not fits.any():
                raise UsageError(
                    f"{entry.path}: no sample fits a row of {seq_length} tokens, the shortest has"
                    f" {samples.lengths.min()}: raise --seq-length"
                )
            self.sample_indices.append(np.flatnonzero(fits))
            self.too_long += [
                OversizedSample(entry.path, samples.keys[index], int(samples.lengths[index]))
                for index in np.flatnonzero(~fits).tolist()
            ]

    def pairs(self) -> list[tuple[MixtureEntry, SampleSet]]:
        return list(zip(self.entries, self.sample_sets))

    @property
    def max_segment_length(self) -> int:
        """Tokens of the longest sample that fits a row."""
        longest = (samples.lengths[indices].max() for samples, indices in zip(self.sample_sets, self.sample_indices))
        return max(map(int, longest))

    def fingerprints(self) -> list[dict[str, Any]]:
        """Describe, for the record of a run, everything that determines the samples and their order."""
        template = {"video_template": asdict(self.builder.renderer.video_format)}
        return [
            {
                "task": entry.task,
                "weight": entry.weight,
                "content": samples.fingerprint,
                **(template if samples.has_videos else {}),
            }
            for entry, samples in self.pairs()
        ]
