"""The samples of one entry of a mixture: their lengths are known, their sequences are built on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lm_stage.data.answer_samples import AnswerSamples, AnswerTexts
from lm_stage.data.dataset_samples import CaptionSamples
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.data.text_samples import TextSamples
from shared.codec import Codec
from shared.errors import UsageError
from shared.storage.paths import as_path


class SampleSet(Protocol):
    """`lengths` and `captionless_lengths` are int64 (n,): tokens of each sample, with and without its caption."""

    keys: list[str]
    lengths: np.ndarray
    captionless_lengths: np.ndarray
    fingerprint: str  # digest of the content
    codec: Codec | None  # None without codes
    without_text: Sequence[str]  # keys of rows without a caption or an answer

    @property
    def has_videos(self) -> bool:
        """Whether the video template affects the sequences."""

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        """Build one sample. Raises DatasetError if the data on disk is damaged."""


def open_samples(path: str, task: str, builder: SequenceBuilder, keeps_damaged: bool = False) -> SampleSet:
    """Open the samples of a dataset, or of a .jsonl file of texts, for a task.

    With `keeps_damaged`, a part that can be read but does not match its checksum is accepted; reading one of its
    samples then raises DatasetError. Raises UsageError or DatasetError, naming the path, for anything but a complete
    dataset with samples for this task.
    """
    location = as_path(path)
    samples: SampleSet
    if location.suffix == ".jsonl" and location.is_file():
        if task != "text":
            raise UsageError(f"{path}: task {task}: expected task=text for a .jsonl file")
        samples = TextSamples(location, builder)
    elif task == "understand":
        samples = AnswerSamples(location, builder, keeps_damaged)
    elif task == "text":
        samples = AnswerTexts(location, builder, keeps_damaged)
    else:
        samples = CaptionSamples(location, builder, task, keeps_damaged)
    if not samples.keys:
        raise UsageError(f"{path}: contains no samples for task {task}")
    return samples
