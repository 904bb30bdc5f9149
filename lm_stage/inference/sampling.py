"""Samples tokens: greedily, or as the maximum of logits / T + Gumbel noise over the candidates.

With independent Gumbel noise, that maximum is a sample of softmax(logits / T) (the Gumbel-max trick, arXiv:1411.0030).
The noise of a token is a function of seed, prompt key, position and token, so what is sampled depends neither on what
else is in the batch, nor on the order of positions, nor on whether the job was interrupted.

Shape suffixes: B positions, of one or several sequences; K tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from lm_stage.inference.options import SamplingOptions
from shared.errors import JobStoppedError

# SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): number n of the
# generator with state s is mix(s + n · GAMMA).
GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_STEPS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
LAST_SHIFT = np.uint64(31)


def sample(logits_BK: np.ndarray, noise_keys_B: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Return indices (B,) in [0, K), given float32 logits and the noise key of each position (`position_keys`)."""
    if options.greedy:
        return logits_BK.argmax(axis=1)
    rows, tokens = np.nonzero(logits_BK >= _thresholds(logits_BK, options)[:, None])
    scores_BK = np.full(logits_BK.shape, -np.inf)
    scores_BK[rows, tokens] = logits_BK[rows, tokens] / options.temperature + gumbel(noise_keys_B[rows], tokens)
    return scores_BK.argmax(axis=1)


def _thresholds(logits_BK: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Return the smallest logit (B, float64) that top-k, and then top-p, leave among the candidates.

    Tokens with equal logits are candidates together. A `top_k` or `top_p` of None is no limit.
    """
    K, top_k, top_p = logits_BK.shape[1], options.top_k or 0, options.top_p or 1.0
    if 0 < top_k < K:
        logits_BK = np.partition(logits_BK, K - top_k, axis=1)[:, K - top_k :]
    if top_p == 1:
        return logits_BK.min(axis=1).astype(np.float64)
    descending_BK = np.sort(logits_BK, axis=1)[:, ::-1].astype(np.float64)
    return nucleus_thresholds(descending_BK, options.temperature, top_p)


def nucleus_thresholds(descending_BK: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """Return the last logit of the smallest set whose share reaches `top_p` (arXiv:1904.09751)."""
    weights_BK = np.exp((descending_BK - descending_BK[:, :1]) / temperature)
    cumulative_BK = weights_BK.cumsum(axis=1)
    share_before_BK = (cumulative_BK - weights_BK) / cumulative_BK[:, -1:]
    last_B = np.maximum((share_before_BK < top_p).sum(axis=1), 1) - 1
    return descending_BK[np.arange(len(last_B)), last_B]


def noise_key(seed: int, key: str) -> int:
    """Return the 64 bits that the noise of a prompt is computed from."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "little")


def position_keys(noise_keys_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Return the noise keys (B, uint64) of positions, given the key of the prompt that each belongs to."""
    return _split_mix(noise_keys_B, positions_B)


def gumbel(noise_keys_B: np.ndarray, tokens_B: np.ndarray) -> np.ndarray:
    """Return Gumbel noise (B, float64) of tokens, given the noise key of the position of each."""
    bits = _split_mix(noise_keys_B, tokens_B) >> np.uint64(12)
    uniforms = (bits + 0.5) * 2.0**-52  # exact, and neither 0 nor 1
    return -np.log(-np.log(uniforms))


def _split_mix(states: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the numbered output of SplitMix64 for each state (uint64)."""
    z = np.asarray(states, np.uint64) + (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * GAMMA
    for shift, factor in MIX_STEPS:
        z = (z ^ (z >> shift)) * factor
    return z ^ (z >> LAST_SHIFT)


def check_finite(logits_BK: np.ndarray, place: Callable[[int], str]) -> None:
    """Raise JobStoppedError, with the place of the first bad position, if a logit is not finite."""
    check_all_finite(np.isfinite(logits_BK).all(axis=1), place)


def check_all_finite(is_finite_B: np.ndarray, place: Callable[[int], str]) -> None:
    """Raise JobStoppedError, with the place of the first bad position, unless all are finite."""
    if not is_finite_B.all():
        raise JobStoppedError(
            f"{place(int(is_finite_B.argmin()))}: logits are not finite: check the model's weights and dtype; finished"
            " work is kept"
        )
