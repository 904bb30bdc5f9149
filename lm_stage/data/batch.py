"""Rows of packed samples as arrays, each sample blind to the others.

Shape suffixes: B rows, L tokens, K places with a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.data.shuffle import PlacedSample
from shared.errors import DatasetError

PADDING = -1  # segment of places that hold no sample


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """int32 token ids, targets, positions and segments (B, L), float32 weights (B, L), and the samples' keys."""

    token_ids_BL: np.ndarray
    targets_BL: np.ndarray
    weights_BL: np.ndarray
    positions_BL: np.ndarray
    segments_BL: np.ndarray
    keys: tuple[str, ...]

    @property
    def useful_tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.segments_BL != PADDING).sum())

    @property
    def total_weight(self) -> float:
        return float(self.weights_BL.sum(dtype=np.float64))

    @property
    def eighths(self) -> int:
        """How many eighths of all places those with a weight fill, rounded up; at least one."""
        return max(1, -(-int(np.count_nonzero(self.weights_BL)) // self._eighth))

    @property
    def _eighth(self) -> int:
        return -(-self.weights_BL.size // 8)

    def supervised(self, eighths: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places (K,) in the flattened rows whose weight is not zero, with their targets and weights.

        Others follow, up to so many eighths of all places: so there are at most eight shapes to compile for.
        """
        weights_M = self.weights_BL.reshape(-1)
        weighted, others = np.flatnonzero(weights_M), np.flatnonzero(weights_M == 0)
        places_K = np.concatenate((weighted, others))[: eighths * self._eighth].astype(np.int32)
        return places_K, self.targets_BL.reshape(-1)[places_K], weights_M[places_K]


def build_batch(
    rows: Sequence[Sequence[PlacedSample]], mixture: Mixture, on_damaged: Callable[[str], None] | None = None
) -> TrainingBatch:
    """Arrays of some rows. A damaged sample is left out and told to `on_damaged`, or raises DatasetError without it."""
    shape = len(rows), mixture.row_length
    batch = TrainingBatch(
        np.full(shape, mixture.builder.layout.pad, np.int32),
        np.full(shape, mixture.builder.layout.pad, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int32),
        np.full(shape, PADDING, np.int32),
        tuple(mixture.samples[s.source].keys[s.index] for row in rows for s in row),
    )
    for number, row in enumerate(rows):
        begin = 0
        for segment, placed in enumerate(row):
            try:
                sequence = mixture.samples[placed.source].sequence(placed.index, placed.is_bare)
            except DatasetError as error:
                if on_damaged is None:
                    raise
                on_damaged(str(error))
                continue
            begin = _place(batch, number, begin, segment, sequence)
    return batch


def _place(batch: TrainingBatch, row: int, begin: int, segment: int, sequence: TrainingSequence) -> int:
    """Writes a sample behind `begin`; the last token predicts nothing. Returns where it ends."""
    length = len(sequence.token_ids)
    end = begin + length
    batch.token_ids_BL[row, begin:end] = sequence.token_ids
    batch.targets_BL[row, begin : end - 1] = sequence.token_ids[1:]
    batch.weights_BL[row, begin : end - 1] = sequence.weights[1:]
    batch.positions_BL[row, begin:end] = np.arange(length)
    batch.segments_BL[row, begin:end] = segment
    return end
