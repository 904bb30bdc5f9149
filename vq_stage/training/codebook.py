"""The codebook learned by moving averages of the latents each code was nearest to."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops

from vq_stage.model.network import Quantizer

RESTART_EVERY = 25
DEAD_SHARE = 0.05  # of the mean use; a code used less is restarted


class CodebookAverage:
    """Moves the codebook of a quantizer after every step. Plain numpy: a few hundred latents a step."""

    def __init__(self, quantizer: Quantizer, decay: float, seed: int):
        self.parameter = quantizer.embedding.weight
        self.decay = decay
        self.seed = seed
        self.counts_K = np.zeros(self.parameter.shape[0], np.float64)
        self.sums_KC = np.zeros(self.parameter.shape, np.float64)
        self.is_started = False

    def state(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts_K, "sums": self.sums_KC}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.counts_K, self.sums_KC, self.is_started = state["counts"].copy(), state["sums"].copy(), True

    def start_from_codebook(self) -> None:
        """Keeps the codebook as it is, as if every code had been used once a step: for fine-tuning."""
        codebook_KC = self.parameter.asnumpy().astype(np.float64)
        self.restore({"counts": np.ones(len(codebook_KC)), "sums": codebook_KC})

    def update(self, latents_BTCHW: np.ndarray, codes_BTHW: np.ndarray, step: int) -> float:
        """Takes in one batch; returns the share of the codebook in use, by the averages."""
        K, C = self.sums_KC.shape
        latents_NC = latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, C).astype(np.float64)
        random = np.random.default_rng((self.seed, step))
        if not self.is_started:
            self._restart(np.arange(K), latents_NC, random)
            self.is_started = True
        else:
            codes_N = codes_BTHW.reshape(-1)
            sums_KC = np.stack([np.bincount(codes_N, latents_NC[:, c], minlength=K) for c in range(C)], axis=1)
            self.counts_K = self.decay * self.counts_K + (1 - self.decay) * np.bincount(codes_N, minlength=K)
            self.sums_KC = self.decay * self.sums_KC + (1 - self.decay) * sums_KC
        dead = self.counts_K < DEAD_SHARE * len(latents_NC) / K
        usage = 1.0 - dead.mean()
        if step % RESTART_EVERY == RESTART_EVERY - 1 and dead.any():
            self._restart(np.flatnonzero(dead), latents_NC, random)
        means_KC = self.sums_KC / np.maximum(self.counts_K, 1e-12)[:, None]
        ops.assign(self.parameter, Tensor(means_KC.astype(np.float32)))  # set_data is not seen by a compiled graph
        return float(usage)

    def _restart(self, codes: np.ndarray, latents_NC: np.ndarray, random: np.random.Generator) -> None:
        """Moves codes onto latents of this batch, with a little noise, as if used at the mean rate."""
        rate = len(latents_NC) / len(self.counts_K)
        chosen = latents_NC[random.integers(len(latents_NC), size=len(codes))]
        chosen = chosen + random.normal(scale=0.02 * latents_NC.std(axis=0), size=chosen.shape)
        self.counts_K[codes] = rate
        self.sums_KC[codes] = rate * chosen
