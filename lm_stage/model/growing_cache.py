"""A KV cache that grows with its sequences, where the attention of a device reads the whole cache in every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor

from lm_stage.model.candidate_step import CandidateStep
from lm_stage.model.kv_cache import CachedDecoder


class GrowingCachedDecoder:
    """A decoder that moves its cache to the shortest of a few lengths that hold all sequences.

    `lengths` are in ascending order; `decoder` has the first. Each length is compiled once, and its cache is kept.
    """

    def __init__(self, decoder: CachedDecoder, lengths: Sequence[int]):
        self.rows, self.lengths = decoder.rows, lengths
        self.current = decoder
        self._decoders = {decoder.length: decoder}
        self._ends_R = np.zeros(decoder.rows, np.int64)  # positions in use

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        """Fill a row with a sequence from position 0 on; its previous content is discarded."""
        self._ends_R[row] = len(token_ids)
        self._move()
        self.current.prefill(row, token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        """Write the next L tokens of each row; see `CachedModel`."""
        logits_RLK: np.ndarray = self.step(token_ids_RL, positions_RL).asnumpy().reshape(*token_ids_RL.shape, -1)
        return logits_RLK

    def candidate_step(self, guidance_scale: float, count: int) -> CandidateStep | None:
        """Return a step whose logits stay on the device, unless that is the host; see `CachedModel`."""
        return CandidateStep.of(self, self.current.decoder.kernels.Candidates(guidance_scale, count))

    def step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> Tensor:
        """Return the float32 logits (R·L, K) of new tokens, on the device."""
        self._ends_R = positions_RL.max(axis=1) + 1
        self._move()
        return self.current.step(token_ids_RL, positions_RL)

    def _move(self) -> None:
        """Move all rows to the shortest cache that holds them and has its last position to spare."""
        end = self._ends_R.max()
        length = next((length for length in self.lengths if length > end), self.lengths[-1])
        if length != self.current.length:
            if length not in self._decoders:
                self._decoders[length] = self.current.resized(length)
            self._decoders[length].copy_cache(self.current)
            self.current = self._decoders[length]
