"""How Emu3's family is trained: the step, and the codebook, which follows moving averages of the latents.

Loss: van den Oord et al. 2017 (VQ-VAE), with the codebook loss replaced by exponential moving averages of the latents
assigned to each code (appendix A.1), with the restart of dead codes from Dhariwal et al. 2020 (Jukebox). The batch
statistics of the temporal layers stay frozen.
Shape suffixes: B batch, T frames, C channels, H W grid, N latents of a batch, K codebook entries.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops

from vq_stage.model.autoencoder import Quantizer
from vq_stage.training.step import TrainStep

RESTART_EVERY_STEPS = 25
DEAD_CODE_RATIO = 0.05  # a code used less than this share of the mean use is restarted
RESTART_NOISE = 0.02  # in standard deviations of the latents


class MovingAverageStep(TrainStep):
    """Straight-through: the encoder receives the gradient of the entry. The codebook is updated by CodebookEMA."""

    def quantize(self, latents_BTCHW: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = self.model.quantize.nearest_codes(ops.stop_gradient(latents_BTCHW))
        quantized = ops.stop_gradient(self.model.quantize.lookup(codes))
        blended = latents_BTCHW + share * ops.stop_gradient(quantized - latents_BTCHW)
        loss = share * self.commitment * self.model.kernels.mean_squared_error(latents_BTCHW, quantized)
        return blended, codes, loss


class CodebookEMA:
    """Updates the codebook of a quantizer after every step, in numpy: a step has only a few hundred latents."""

    def __init__(self, quantizer: Quantizer, decay: float, seed: int):
        self.parameter = quantizer.embedding.weight
        self.decay = decay
        self.seed = seed
        self.counts_K = np.zeros(self.parameter.shape[0], np.float64)
        self.sums_KC = np.zeros(self.parameter.shape, np.float64)
        self.is_initialized = False

    def state(self) -> dict[str, np.ndarray]:
        """Return the averages for a checkpoint."""
        return {"counts": self.counts_K, "sums": self.sums_KC}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the averages of a checkpoint."""
        self.counts_K, self.sums_KC, self.is_initialized = state["counts"].copy(), state["sums"].copy(), True

    def initialize_from_codebook(self) -> None:
        """Keep the codebook as it is, as if every code had been used once per step: for fine-tuning."""
        codebook_KC = self.parameter.asnumpy().astype(np.float64)
        self.restore({"counts": np.ones(len(codebook_KC)), "sums": codebook_KC})

    def update(self, latents_BTCHW: np.ndarray, codes_BTHW: np.ndarray, step: int) -> float:
        """Update the codebook with one batch; return the share of its codes in use, according to the averages.

        The first batch initializes a new codebook with latents.
        """
        K, C = self.sums_KC.shape
        latents_NC = latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, C).astype(np.float64)
        random = np.random.default_rng((self.seed, step))
        if not self.is_initialized:
            self._restart(np.arange(K), latents_NC, random)
            self.is_initialized = True
        else:
            codes_N = codes_BTHW.reshape(-1)
            sums_KC = np.stack([np.bincount(codes_N, latents_NC[:, c], minlength=K) for c in range(C)], axis=1)
            self.counts_K = self.decay * self.counts_K + (1 - self.decay) * np.bincount(codes_N, minlength=K)
            self.sums_KC = self.decay * self.sums_KC + (1 - self.decay) * sums_KC
        is_dead_K = self.counts_K < DEAD_CODE_RATIO * len(latents_NC) / K
        usage = 1.0 - is_dead_K.mean()
        if step % RESTART_EVERY_STEPS == RESTART_EVERY_STEPS - 1 and is_dead_K.any():
            self._restart(np.flatnonzero(is_dead_K), latents_NC, random)
        means_KC = self.sums_KC / np.maximum(self.counts_K, 1e-12)[:, None]
        ops.assign(self.parameter, Tensor(means_KC.astype(np.float32)))  # a compiled graph does not see set_data
        return float(usage)

    def _restart(self, codes: np.ndarray, latents_NC: np.ndarray, random: np.random.Generator) -> None:
        """Move codes to randomly chosen latents of this batch plus a little noise, as if used at the mean rate."""
        rate = len(latents_NC) / len(self.counts_K)
        self.counts_K[codes] = rate
        self.sums_KC[codes] = rate * near_latents(latents_NC, len(codes), random)


def near_latents(latents_NC: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return `count` entries (count, C): randomly chosen latents plus a little noise."""
    chosen = latents_NC[random.integers(len(latents_NC), size=count)]
    return chosen + random.normal(scale=RESTART_NOISE * latents_NC.std(axis=0), size=chosen.shape)
