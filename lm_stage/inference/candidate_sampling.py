"""Samples from the most likely tokens, which a device has selected, what `sampling` samples from all of them.

The noise is computed here: it takes integers of 64 bits, and only the candidates need any.

Shape suffixes: B positions, of one or several sequences; k candidates.
"""

from __future__ import annotations

import numpy as np

from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import gumbel, nucleus_thresholds

# Selected beyond top-k, because tokens with equal logits, frequent in half precision, are candidates together.
SPARE = 512


def count_to_select(options: SamplingOptions, tokens: int) -> int | None:
    """Return how many tokens a device selects out of `tokens`; None if the host needs all of them."""
    count = _limit(options) + SPARE
    return count if SPARE < count < tokens else None


def sample_candidates(
    logits_Bk: np.ndarray, tokens_Bk: np.ndarray, noise_keys_B: np.ndarray, options: SamplingOptions
) -> np.ndarray | None:
    """Return tokens (B,), given the largest logits in descending order, the tokens that have them, and noise keys.

    Returns None if these may not be all candidates: further tokens can have the same logit as the last one.
    """
    limit, top_p = _limit(options), options.top_p or 1.0
    if not 0 < limit < logits_Bk.shape[1] or (logits_Bk[:, -1] == logits_Bk[:, limit - 1]).any():
        return None
    thresholds_B = logits_Bk[:, limit - 1].astype(np.float64)
    if top_p != 1 and not options.greedy:
        thresholds_B = nucleus_thresholds(logits_Bk[:, :limit].astype(np.float64), options.temperature, top_p)
    rows, columns = np.nonzero(logits_Bk >= thresholds_B[:, None])
    scores_Bk = np.full(logits_Bk.shape, -np.inf)
    if options.greedy:
        scores_Bk[rows, columns] = 0.0
    else:
        noise = gumbel(noise_keys_B[rows], tokens_Bk[rows, columns])
        scores_Bk[rows, columns] = logits_Bk[rows, columns] / options.temperature + noise
    is_best_Bk = scores_Bk == scores_Bk.max(axis=1, keepdims=True)
    lowest_B: np.ndarray = np.where(is_best_Bk, tokens_Bk, np.iinfo(np.int64).max).min(axis=1)
    return lowest_B


def _limit(options: SamplingOptions) -> int:
    """Return the number of the most likely tokens that can be sampled, if no others are equal; 0: all."""
    return 1 if options.greedy else options.top_k or 0
