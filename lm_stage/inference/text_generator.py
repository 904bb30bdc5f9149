"""Generates answers token by token, many at once.

Only text can be generated: visual tokens are outside the output head, and control tokens are masked, except EOS and
the one that begins the end of an answer (ESS in Emu3.5's sequences, which upstream's EOS follows).

Shape suffixes: B sequences, K text and control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.inference.continuous_batch import ContinuousBatch
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import check_finite, noise_key, position_keys, sample
from shared.tokens.layout import TokenLayout

if TYPE_CHECKING:
    from lm_stage.model.backend import CachedModel


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One answer to generate, of at most `max_new_tokens` including the token that ends it."""

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
    noise_key: int
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None

    def text_ids(self) -> list[int]:
        """Return the answer without the token that ends it."""
        return self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids


class TextGenerator(ContinuousBatch[TextRequest, TextSequence]):
    """Generates answers, which EOS or the token of the role `end` ends.

    The model's logits cover the ids below the visual tokens.
    """

    def __init__(self, model: CachedModel, layout: TokenLayout, sampling: SamplingOptions, end: str = "eos"):
        super().__init__(model, sampling)
        self.ends = {layout.eos, getattr(layout, end)}
        control = sorted(set(layout.control_ids.values()) - self.ends)
        self.masked_ids = [token for token in control if token < layout.first_visual_token]

    def add(self, request: TextRequest) -> TextSequence:
        index = self.sequences.index(None)
        self.model.prefill(index, request.prompt_ids[:-1])
        self.token_ids_R[index] = request.prompt_ids[-1]
        self.positions_R[index] = len(request.prompt_ids) - 1
        sequence = TextSequence(request, noise_key(request.seed, request.key))
        self.sequences[index] = sequence
        return sequence

    def step(self) -> list[TextSequence]:
        tokens_B = self._sample(self.model.decode_step(self.token_ids_R[:, None], self.positions_R[:, None])[:, 0])
        finished = []
        for (index, sequence), token in zip(self._running(), tokens_B):
            sequence.token_ids.append(token)
            self.token_ids_R[index] = token
            self.positions_R[index] += 1
            if token in self.ends or len(sequence.token_ids) == sequence.request.max_new_tokens:
                sequence.finish_reason = "eos" if token in self.ends else "length"
                finished.append(sequence)
                self._remove(index)
        return finished

    def _sample(self, logits_RK: np.ndarray) -> list[int]:
        """Return the next token of every running sequence."""
        running = self._running()
        logits_BK = logits_RK[[index for index, _ in running]]
        check_finite(
            logits_BK, lambda i: f"{running[i][1].request.key}, token {len(running[i][1].token_ids)} of the answer"
        )
        logits_BK[:, self.masked_ids] = -np.inf
        noise_keys_B = np.array([sequence.noise_key for _, sequence in running], np.uint64)
        positions_B = np.array([len(sequence.token_ids) for _, sequence in running])
        chosen: list[int] = sample(logits_BK, position_keys(noise_keys_B, positions_B), self.sampling).tolist()
        return chosen
