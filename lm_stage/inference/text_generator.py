"""Generates answers token by token, many at once.

Only text can be generated: visual tokens are outside the output head, and control tokens other than EOS are masked.

Shape suffixes: B sequences, K text and control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.inference.continuous_batch import ContinuousBatch
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import check_finite, sample, uniforms
from shared.tokens.layout import TokenLayout

if TYPE_CHECKING:
    from lm_stage.model.backend import CachedModel


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One answer to generate, of at most `max_new_tokens` including the EOS that ends it."""

    key: str
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(slots=True)
class TextSequence:
    """An answer in progress. `finish_reason` is `eos` or `length` once it is complete."""

    request: TextRequest
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def text_ids(self) -> list[int]:
        """Return the answer without its EOS."""
        return self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids


class TextGenerator(ContinuousBatch[TextRequest, TextSequence]):
    """Generates answers. The model's logits cover the ids below the visual tokens."""

    def __init__(self, model: CachedModel, layout: TokenLayout, sampling: SamplingOptions):
        super().__init__(model, sampling)
        self.eos = layout.eos
        self.masked_ids = [i for i in layout.control_ids.values() if i != layout.eos and i < layout.first_visual_token]

    def add(self, request: TextRequest) -> TextSequence:
        index = self.sequences.index(None)
        self.model.prefill(index, request.prompt_ids[:-1])
        self.token_ids_R[index] = request.prompt_ids[-1]
        self.positions_R[index] = len(request.prompt_ids) - 1
        sequence = TextSequence(request, uniforms(request.seed, request.key, request.max_new_tokens))
        self.sequences[index] = sequence
        return sequence

    def step(self) -> list[TextSequence]:
        logits_BK = self.model.decode_step(self.token_ids_R, self.positions_R)
        finished = []
        for index, sequence in self._running():
            token = self._sample(sequence, logits_BK[index].copy())
            sequence.token_ids.append(token)
            self.token_ids_R[index] = token
            self.positions_R[index] += 1
            if token == self.eos or len(sequence.token_ids) == sequence.request.max_new_tokens:
                sequence.finish_reason = "eos" if token == self.eos else "length"
                finished.append(sequence)
                self.sequences[index] = None
        return finished

    def _sample(self, sequence: TextSequence, logits_K: np.ndarray) -> int:
        offset = len(sequence.token_ids)
        check_finite(logits_K, sequence.request.key, f"token {offset} of the answer")
        logits_K[self.masked_ids] = -np.inf
        return int(sample(logits_K[None], sequence.uniforms[offset : offset + 1], self.sampling)[0])
