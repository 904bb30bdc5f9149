"""Writes answers token by token, many at once: one slot an answer, filled again as soon as it ends.

Only text may follow: visual tokens lie outside the head's range, control tokens other than EOS are never chosen.

Shape suffixes: B slots, K text and control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.inference.sampling import SamplingOptions, uniforms
from lm_stage.inference.visual_generator import Cache
from shared.errors import JobStoppedError
from shared.tokens.layout import TokenLayout


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One answer to write, of at most `max_new_tokens` with the EOS that ends it."""

    key: str
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(slots=True)
class TextSequence:
    """An answer being written. `finish_reason` is eos or length once it is done."""

    request: TextRequest
    uniforms: np.ndarray
    token_ids: list[int]
    finish_reason: str | None = None

    def text_ids(self) -> list[int]:
        """The answer without its EOS."""
        return self.token_ids[:-1] if self.finish_reason == "eos" else self.token_ids


class TextGenerator:
    """`add` requests while there are free slots, `step` until they are done.

    `cache` gives logits over the ids below the visual tokens.
    """

    def __init__(self, cache: Cache, layout: TokenLayout, sampling: SamplingOptions):
        self.cache = cache
        self.sampling = sampling
        self.eos = layout.eos
        self.never = [i for i in layout.control_ids.values() if i != layout.eos and i < layout.first_visual_token]
        self.slots: list[TextSequence | None] = [None] * cache.rows
        self.token_ids_B = np.zeros(cache.rows, np.int32)
        self.positions_B = np.zeros(cache.rows, np.int32)

    @property
    def is_full(self) -> bool:
        return None not in self.slots

    @property
    def running(self) -> list[tuple[int, TextSequence]]:
        """Occupied slots with their index."""
        return [(index, slot) for index, slot in enumerate(self.slots) if slot is not None]

    def add(self, request: TextRequest) -> None:
        """Begins an answer by one prefill."""
        index = self.slots.index(None)
        self.cache.prefill(index, request.prompt_ids[:-1])
        self.token_ids_B[index] = request.prompt_ids[-1]
        self.positions_B[index] = len(request.prompt_ids) - 1
        self.slots[index] = TextSequence(request, uniforms(request.seed, request.key, request.max_new_tokens), [])

    def step(self) -> list[TextSequence]:
        """One forward of all running answers; returns those that ended and frees their slots."""
        logits_BK = self.cache.decode_step(self.token_ids_B, self.positions_B)
        finished = []
        for index, slot in self.running:
            logits_K = logits_BK[index].copy()
            if not np.isfinite(logits_K).all():
                raise JobStoppedError(
                    f"{slot.request.key}: logits are not finite at token {len(slot.token_ids)} of the answer: check"
                    " the model's weights and number type; answers written so far stay"
                )
            logits_K[self.never] = -np.inf
            number = slot.uniforms[len(slot.token_ids)]
            token = int(self.sampling.choose(logits_K[None], np.array([number]))[0])
            slot.token_ids.append(token)
            self.token_ids_B[index] = token
            self.positions_B[index] += 1
            if token == self.eos or len(slot.token_ids) == slot.request.max_new_tokens:
                slot.finish_reason = "eos" if token == self.eos else "length"
                finished.append(slot)
                self.slots[index] = None
        return finished
