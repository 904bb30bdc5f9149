"""Documents for Megatron: `tokens.bin/.idx`, and `loss_mask.bin/.idx` with the weight of every token.

Element i of the loss mask is the weight of the prediction *of* token i, so that it is shifted like a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_stage.data.options import LossWeights
from lm_stage.data.sequences import TrainingSequence
from shared.exchange.formats.megatron import MegatronWriter, token_dtype


class MegatronFiles:
    """Writes samples, or rows of `row_length` tokens that are filled up with `pad`. Implements `SequenceFiles`."""

    def __init__(self, folder: Path, vocabulary_size: int, weights: LossWeights, row_length: int | None, pad: int):
        self.types = {"tokens": token_dtype(vocabulary_size), "loss_mask": weight_dtype(weights)}
        self.documents = self.tokens = 0
        self._row_length, self._pad = row_length, pad
        self._tokens, self._weights = (MegatronWriter(folder / name, dtype) for name, dtype in self.types.items())

    def add(self, sequences: Sequence[TrainingSequence]) -> None:
        """Append the samples of a row, as one document or as one each."""
        if self._row_length is None:
            for sequence in sequences:
                self._add(sequence.token_ids, sequence.weights)
        elif sequences:
            token_ids = np.concatenate([one.token_ids for one in sequences])
            weights = np.concatenate([one.weights for one in sequences])
            padding = 0, self._row_length - len(token_ids)
            self._add(np.pad(token_ids, padding, constant_values=self._pad), np.pad(weights, padding))

    def _add(self, token_ids: np.ndarray, weights: np.ndarray) -> None:
        self._tokens.add(token_ids)
        self._weights.add(weights)
        self.documents += 1
        self.tokens += len(token_ids)

    def close(self, *, is_complete: bool) -> None:
        for writer in (self._tokens, self._weights):
            writer.close(is_complete=is_complete)


def weight_dtype(weights: LossWeights) -> str:
    """Return uint8 if every weight is 0 or 1, else float32."""
    return "uint8" if {weights.of_visual, weights.of_other} <= {0.0, 1.0} else "float32"
