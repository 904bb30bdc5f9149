"""Writes images and videos token by token, many at once: one slot each, filled again as soon as it is done.

With guidance a slot has two rows of the cache, the prompt's and the negative prompt's, and both go through one
forward. The grammar of an image or a video is known beforehand: forced tokens are written without being sampled, the
output head covers visual tokens only, and the forced tail is never computed.

Shape suffixes: B slots, R rows, K codes of the codebook, T frames, H W grid of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lm_stage.inference.sampling import SamplingOptions, uniforms
from shared.errors import JobStoppedError, UsageError
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import IMAGE, VISUAL, GridFormat, body_template, video_length


@dataclass(frozen=True, slots=True)
class VisualRequest:
    """One image or video to write. `prompt_ids` and `negative_ids` end with IMG.

    `given` are codes to begin with that were not written here; they are always taken in by the prefill of the prompt.
    `codes` follow them and were written by an earlier run. `is_replayed` writes those again step by step, so that
    what follows is bit by bit that of an unbroken run; else they are prefilled too, which rounds differently.
    """

    key: str
    prompt_ids: Sequence[int]
    negative_ids: Sequence[int] | None
    height: int
    width: int
    seed: int
    codes: Sequence[int] = ()
    is_replayed: bool = True
    frames: int = 1
    template: GridFormat = IMAGE
    given: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Tokens of the longest row, prompt and image."""
        longest = max(len(self.prompt_ids), len(self.negative_ids or ()))
        return longest + video_length(self.frames, self.height, self.width, self.template)

    @property
    def kind(self) -> str:
        return "image" if self.template == IMAGE else "video"


@dataclass(slots=True)
class VisualSequence:
    """An image being written: `codes` so far, behind the given ones; `place` the offset of the next token."""

    request: VisualRequest
    template: np.ndarray
    uniforms: np.ndarray
    codes: list[int]
    place: int
    last_token: int

    @property
    def is_done(self) -> bool:
        request = self.request
        return len(request.given) + len(self.codes) == request.frames * request.height * request.width

    def codes_THW(self) -> np.ndarray:
        """uint16 codes of a finished image or video, with the given ones."""
        request = self.request
        codes = np.array([*request.given, *self.codes], np.uint16)
        return codes.reshape(request.frames, request.height, request.width)

    def codes_HW(self) -> np.ndarray:
        """uint16 codes of a finished image."""
        return self.codes_THW()[0]


class Cache(Protocol):
    """A model with memory for `rows` sequences; see CachedDecoder for the contract."""

    rows: int

    def prefill(self, row: int, token_ids: Sequence[int]) -> None: ...

    def decode_step(self, token_ids_R: np.ndarray, positions_R: np.ndarray) -> np.ndarray: ...


class VisualGenerator:
    """`add` requests while there are free slots, `step` until they are done.

    `cache` gives logits over the visual tokens only; with guidance (a scale other than 1) it has two rows a slot.
    """

    def __init__(self, cache: Cache, layout: TokenLayout, sampling: SamplingOptions, guidance_scale: float = 1.0):
        self.cache = cache
        self.layout = layout
        self.sampling = sampling
        self.guidance_scale = guidance_scale
        self.is_guided = guidance_scale != 1.0
        self.slots: list[VisualSequence | None] = [None] * (cache.rows // (1 + self.is_guided))
        self.token_ids_R = np.zeros(cache.rows, np.int32)
        self.positions_R = np.zeros(cache.rows, np.int32)

    @property
    def is_full(self) -> bool:
        return None not in self.slots

    @property
    def running(self) -> list[VisualSequence]:
        return [slot for slot in self.slots if slot is not None]

    def add(self, request: VisualRequest) -> VisualSequence:
        """Begins an image, or goes on with one that has codes already."""
        index = self.slots.index(None)
        template = body_template(request.frames, request.height, request.width, self.layout, request.template)
        codes = [] if request.is_replayed else list(request.codes)
        body = _written([*request.given, *codes], template, self.layout)
        numbers = uniforms(request.seed, request.key, len(template))
        for row, prompt in self._rows(index, request):
            sequence = [*prompt, *body]
            self.cache.prefill(row, sequence[:-1])
            self.positions_R[row] = len(sequence) - 1
        last = body[-1] if body else self.layout.img
        self.slots[index] = slot = VisualSequence(request, template, numbers, codes, len(body), last)
        return slot

    def _rows(self, index: int, request: VisualRequest) -> list[tuple[int, Sequence[int]]]:
        rows = [(index, request.prompt_ids)]
        if self.is_guided:
            assert request.negative_ids is not None, "guidance needs a negative prompt"
            rows.append((index + len(self.slots), request.negative_ids))
        return rows

    def step(self) -> list[VisualSequence]:
        """One forward of all running images; returns those that became complete and frees their slots."""
        for index, slot in self._running():
            self.token_ids_R[index :: len(self.slots)] = slot.last_token
        logits_BK = self._guided(self.cache.decode_step(self.token_ids_R, self.positions_R))
        self._choose(logits_BK)
        finished = []
        for index, slot in self._running():
            self.positions_R[index :: len(self.slots)] += 1
            if slot.is_done:
                finished.append(slot)
                self.slots[index] = None
        return finished

    def _running(self) -> list[tuple[int, VisualSequence]]:
        return [(index, slot) for index, slot in enumerate(self.slots) if slot is not None]

    def _guided(self, logits_RK: np.ndarray) -> np.ndarray:
        """Classifier-free guidance (arXiv:2207.12598); a shift common to a row's logits changes no probability."""
        if not self.is_guided:
            return logits_RK
        cond, uncond = np.split(logits_RK, 2)
        return uncond + self.guidance_scale * (cond - uncond)

    def _choose(self, logits_BK: np.ndarray) -> None:
        sampled = [(index, slot) for index, slot in self._running() if slot.template[slot.place] == VISUAL]
        for index, slot in sampled:
            if not np.isfinite(logits_BK[index]).all():
                raise JobStoppedError(
                    f"{slot.request.key}: logits are not finite at offset {slot.place} of the"
                    f" {slot.request.kind}: check the model's weights and number type; what was journaled stays"
                )
        if sampled:
            numbers = np.array([slot.uniforms[slot.place] for _, slot in sampled])
            chosen = self.sampling.choose(logits_BK[[index for index, _ in sampled]], numbers)
            for (_, slot), choice in zip(sampled, chosen):
                place, known = len(slot.codes), slot.request.codes
                code = int(known[place] if place < len(known) else choice)
                slot.codes.append(code)
                slot.last_token = code + self.layout.first_visual_token
        for _, slot in self._running():
            if slot.template[slot.place] != VISUAL:
                slot.last_token = int(slot.template[slot.place])
            slot.place += 1


def _written(codes: Sequence[int], template: np.ndarray, layout: TokenLayout) -> list[int]:
    """The body's tokens that stand already: the given codes, and the forced tokens between them."""
    if not codes:
        return []
    end = int(np.flatnonzero(template == VISUAL)[len(codes) - 1]) + 1
    body = template[:end].copy()
    body[body == VISUAL] = np.asarray(codes) + layout.first_visual_token
    return [int(token) for token in body]


def check_length(length: int, max_positions: int) -> None:
    """Raises UsageError if prompt and image together pass the model's positions."""
    if length > max_positions:
        raise UsageError(
            f"prompt and image take {length} tokens, the model has {max_positions} positions; shorten the prompt or"
            " ask for a smaller image"
        )
