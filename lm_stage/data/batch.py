"""Rows of packed samples as arrays, in which no sample attends to another.

Shape suffixes: B rows, L tokens, M = B·L, K supervised positions and some others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.data.shuffle import PackedSample
from shared.errors import DatasetError

PADDING = -1  # segment of positions without a sample
BUCKETS = 8  # shapes to compile for: the logits of a batch cover 1/8, 2/8, … of its positions


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """int32 token ids, targets, positions and segments (B, L), float32 weights (B, L), and the samples' keys."""

    token_ids_BL: np.ndarray
    targets_BL: np.ndarray
    weights_BL: np.ndarray
    positions_BL: np.ndarray
    segments_BL: np.ndarray
    keys: tuple[str, ...]

    @classmethod
    def empty(cls, rows: int, seq_length: int, pad: int, keys: tuple[str, ...] = ()) -> TrainingBatch:
        """Return a batch of padding only."""
        shape = rows, seq_length
        token_ids, targets = np.full(shape, pad, np.int32), np.full(shape, pad, np.int32)
        weights, positions = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        return cls(token_ids, targets, weights, positions, np.full(shape, PADDING, np.int32), keys)

    @property
    def useful_tokens(self) -> int:
        """Tokens other than padding."""
        return int((self.segments_BL != PADDING).sum())

    @property
    def total_weight(self) -> float:
        return float(self.weights_BL.sum(dtype=np.float64))

    @property
    def target_bucket(self) -> int:
        """The smallest bucket, from 1 to 8, whose share of all positions has room for those with a weight."""
        return max(1, -(-int(np.count_nonzero(self.weights_BL)) // self._bucket_size))

    @property
    def _bucket_size(self) -> int:
        return -(-self.weights_BL.size // BUCKETS)

    def supervised(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return flat indices (K,) of the positions with a weight, and their targets and weights.

        Positions without a weight fill up the bucket, so that there are at most eight shapes to compile for.
        """
        weights_M = self.weights_BL.reshape(-1)
        weighted, others = np.flatnonzero(weights_M), np.flatnonzero(weights_M == 0)
        indices_K = np.concatenate((weighted, others))[: bucket * self._bucket_size].astype(np.int32)
        return indices_K, self.targets_BL.reshape(-1)[indices_K], weights_M[indices_K]

    def write(self, row: int, begin: int, segment: int, sequence: TrainingSequence) -> int:
        """Write a sample at token `begin` of a row and return where it ends; its last token has no target."""
        length = len(sequence.token_ids)
        end = begin + length
        self.token_ids_BL[row, begin:end] = sequence.token_ids
        self.targets_BL[row, begin : end - 1] = sequence.token_ids[1:]
        self.weights_BL[row, begin : end - 1] = sequence.weights[1:]
        self.positions_BL[row, begin:end] = np.arange(length)
        self.segments_BL[row, begin:end] = segment
        return end


def build_batch(
    rows: Sequence[Sequence[PackedSample]], mixture: Mixture, on_damaged: Callable[[str], None] | None = None
) -> TrainingBatch:
    """Build the arrays of some rows.

    A damaged sample is skipped and reported to `on_damaged`; without that callback it raises DatasetError.
    """
    keys = tuple(mixture.sample_sets[sample.sample_set].keys[sample.index] for row in rows for sample in row)
    batch = TrainingBatch.empty(len(rows), mixture.seq_length, mixture.builder.layout.pad, keys)
    for number, row in enumerate(rows):
        begin = 0
        for segment, sample in enumerate(row):
            try:
                sequence = mixture.sample_sets[sample.sample_set].sequence(sample.index, sample.drop_caption)
            except DatasetError as error:
                if on_damaged is None:
                    raise
                on_damaged(str(error))
                continue
            begin = batch.write(number, begin, segment, sequence)
    return batch
