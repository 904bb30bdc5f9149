"""Samples the next token: greedily, or from the filtered distribution with a random number keyed to the token.

The number for every token comes from a counter-based generator keyed by (seed, prompt key), so a token depends
neither on what else is in the batch nor on whether the job was interrupted before it.

Shape suffixes: B sequences, K candidates.
"""

from __future__ import annotations

import hashlib

import numpy as np

from lm_stage.inference.options import SamplingOptions
from shared.errors import JobStoppedError


def sample(logits_BK: np.ndarray, uniforms_B: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Return indices (B,) in [0, K), given float32 logits and one uniform number in [0, 1) a sequence."""
    if options.greedy:
        return logits_BK.argmax(axis=1)
    return np.array([_sample_one(logits_K, u, options) for logits_K, u in zip(logits_BK, uniforms_B)])


def _sample_one(logits_K: np.ndarray, uniform: float, options: SamplingOptions) -> int:
    candidates = np.arange(len(logits_K))
    if 0 < options.top_k < len(logits_K):
        threshold = np.partition(logits_K, -options.top_k)[-options.top_k]
        candidates = np.flatnonzero(logits_K >= threshold)
    scores = logits_K[candidates].astype(np.float64) / options.temperature
    weights = np.exp(scores - scores.max())
    if options.top_p < 1:
        weights *= _nucleus(weights, options.top_p)
    cumulative = weights.cumsum()
    return int(candidates[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")])


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Return a mask of the smallest set of candidates whose share reaches `top_p` (arXiv:1904.09751)."""
    order = np.argsort(-weights, kind="stable")
    share_before = np.concatenate([[0.0], weights[order].cumsum()[:-1]]) / weights.sum()
    mask = np.zeros(len(weights), bool)
    mask[order[share_before < top_p]] = True
    return mask


def uniforms(seed: int, key: str, count: int) -> np.ndarray:
    """Return numbers in [0, 1) for the first `count` tokens of a sequence, by Philox keyed with seed and prompt key."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).random(count)


def check_finite(logits_K: np.ndarray, key: str, where: str) -> None:
    """Raise JobStoppedError, naming the prompt and the position, if a logit is not finite."""
    if not np.isfinite(logits_K).all():
        raise JobStoppedError(
            f"{key}: logits are not finite at {where}: check the model's weights and dtype; finished work is kept"
        )
