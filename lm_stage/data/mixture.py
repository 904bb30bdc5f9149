"""The training mixture: samples of one or more datasets, each with a task and a weight.

The length of every sample is known before a row is built; its sequence is built on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lm_stage.data.answer_samples import AnswerSamples, AnswerTexts
from lm_stage.data.dataset_samples import CaptionSamples
from lm_stage.data.document_samples import DocumentSamples
from lm_stage.data.options import MixtureEntry
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.data.text_samples import TextSamples
from lm_stage.text.prompting import PLAIN
from shared.codec import Codec
from shared.errors import ConfigMismatchError, UsageError
from shared.storage.paths import as_path


class SampleSet(Protocol):
    """`lengths` and `captionless_lengths` are int64 (n,): tokens of each sample, with and without its caption."""

    keys: list[str]
    lengths: np.ndarray
    captionless_lengths: np.ndarray
    fingerprint: str  # digest of the content
    codec: Codec | None  # None without codes
    without_text: Sequence[str]  # keys of rows without a caption or an answer
    unusable: list[tuple[str, str]]  # keys of what is left out, with the reasons; a key can occur again

    @property
    def has_videos(self) -> bool:
        """Whether the video template affects the sequences."""

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        """Build one sample. Raises DatasetError if the data on disk is damaged."""


def open_samples(entry: MixtureEntry, builder: SequenceBuilder, keeps_damaged: bool = False) -> SampleSet:
    """Open the samples of a dataset, or of a .jsonl file of texts or documents, for a task.

    With `keeps_damaged`, a part that can be read but does not match its checksum is accepted; reading one of its
    samples then raises DatasetError. Raises UsageError or DatasetError, naming the path, for anything but a complete
    dataset with samples for this task.
    """
    path, task, location = entry.path, entry.task, as_path(entry.path)
    is_lines = location.suffix.lower() == ".jsonl" and location.is_file()
    samples: SampleSet
    if is_lines and task not in ("text", "document"):
        raise UsageError(f"{path}: task {task}: expected task=text or task=document for a .jsonl file")
    if task == "document" and not is_lines:
        raise UsageError(f"{path}: task {task}: expected a .jsonl file of documents")
    if entry.images is not None:
        samples = DocumentSamples(location, as_path(entry.images), builder, keeps_damaged)
    elif is_lines:
        samples = TextSamples(location, builder)
    elif task == "understand":
        samples = AnswerSamples(location, builder, keeps_damaged)
    elif task == "text":
        samples = AnswerTexts(location, builder, keeps_damaged)
    else:
        samples = CaptionSamples(location, builder, task, keeps_damaged)
    if not samples.keys:
        reason = next((f"; {key}: {why}" for key, why in samples.unusable), "")
        raise UsageError(f"{path}: contains no samples for task {task}{reason}")
    return samples


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
        self.sample_sets = [open_samples(one, builder, keeps_damaged) for one in entries]
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
        template = {"video_template": self.builder.renderer.video_format.to_json()}
        name = self.builder.prompting.recorded
        prompting = {} if name == PLAIN.recorded else {"prompting": name}
        return [
            {
                "task": entry.task,
                "weight": entry.weight,
                "content": samples.fingerprint,
                **(template if samples.has_videos else {}),
                **prompting,
            }
            for entry, samples in self.pairs()
        ]


def common_codec(model: Codec, mixtures: list[Mixture]) -> Codec:
    """Return the codec of model and datasets. Raises ConfigMismatchError if there is more than one."""
    expected = model
    for entry, samples in (pair for mixture in mixtures for pair in mixture.pairs()):
        found = samples.codec
        if found is None:
            continue
        if not found.is_compatible(expected):
            raise ConfigMismatchError(
                f"{entry.path}: {found.codebook_size} codes of tokenizer {found.short_fingerprint}; expected"
                f" {expected.codebook_size} codes of {expected.short_fingerprint}; encode with one tokenizer"
            )
        expected = expected if expected.fingerprint else found
    return expected
