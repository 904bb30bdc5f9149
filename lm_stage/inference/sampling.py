"""Choosing the next token: greedy, or one draw from the filtered distribution by a number keyed to its place.

The number for a place comes from a counter-based generator keyed by (seed, prompt key), so a token depends neither
on what else is in the batch nor on whether the job was killed before it.

Shape suffixes: B sequences, K candidates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Temperature, then the `top_k` best (0: all), then the smallest set of probability `top_p`; or greedy."""

    temperature: float = 1.0
    top_k: int = 2048
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature}: expected a positive number; --greedy for none")
        if self.top_k < 0:
            raise UsageError(f"--top-k {self.top_k}: expected at least 0 (0: no limit)")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p}: expected a number in (0, 1]")

    def choose(self, logits_BK: np.ndarray, uniforms_B: np.ndarray) -> np.ndarray:
        """Indices (B,) in [0, K), from float32 logits and one number in [0, 1) a sequence."""
        if self.greedy:
            return logits_BK.argmax(axis=1)
        return np.array([self._draw(logits_K, u) for logits_K, u in zip(logits_BK, uniforms_B)])

    def _draw(self, logits_K: np.ndarray, uniform: float) -> int:
        kept = np.arange(len(logits_K))
        if 0 < self.top_k < len(logits_K):
            threshold = np.partition(logits_K, -self.top_k)[-self.top_k]
            kept = np.flatnonzero(logits_K >= threshold)
        scores = logits_K[kept].astype(np.float64) / self.temperature
        weights = np.exp(scores - scores.max())
        if self.top_p < 1:
            weights *= _nucleus(weights, self.top_p)
        cumulative = weights.cumsum()
        return int(kept[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")])


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Which candidates form the smallest set whose share reaches `top_p` (arXiv:1904.09751)."""
    order = np.argsort(-weights, kind="stable")
    share_before = np.concatenate([[0.0], weights[order].cumsum()[:-1]]) / weights.sum()
    kept = np.zeros(len(weights), bool)
    kept[order[share_before < top_p]] = True
    return kept


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """Numbers in [0, 1) for the places 0 … count−1 of a sequence, by Philox keyed with seed and prompt key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)
