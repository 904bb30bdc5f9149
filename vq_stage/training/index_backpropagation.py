"""The training step of the IBQ family: index backpropagation quantization.

The forward pass takes the entry with the largest dot product; the backward pass sees the softmax of all products, so
every entry of the codebook receives a gradient, not only the chosen one.
Source: Shi et al. 2024 (arXiv:2412.02692), without its perceptual and adversarial losses.
Shape suffixes: B batch, T frames, C channels, H W grid, N latents of a batch, K codebook entries.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from vq_stage.model.autoencoder import Autoencoder, Quantizer
from vq_stage.training.moving_averages import DEAD_CODE_RATIO, near_latents
from vq_stage.training.options import TrainVQOptions
from vq_stage.training.step import TrainStep

ENTROPY_WEIGHT = 0.05
ENTROPY_TEMPERATURE = 0.01
EPS = 1e-5


class IndexBackpropagationStep(TrainStep):
    """Hard codes forward, soft codes backward; Adam updates the codebook like every other weight."""

    trains_codebook = True

    def __init__(self, model: Autoencoder, options: TrainVQOptions):
        super().__init__(model, options)
        self.indices_1K = Tensor(np.arange(model.config.codebook_size, dtype=np.int32).reshape(1, -1))

    def quantize(self, latents_BTCHW: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, C, H, W = latents_BTCHW.shape
        codebook_KC = self.model.quantize.embedding.weight
        latents_NC = latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, C)
        logits_NK = ops.MatMul(transpose_b=True)(latents_NC, codebook_KC)
        codes_N = ops.ArgMaxWithValue(axis=1)(ops.stop_gradient(logits_NK))[0]
        hard_NK = ops.equal(codes_N.reshape(-1, 1), self.indices_1K).astype(ms.float32)
        entries_NC = ops.MatMul()(hard_NK, codebook_KC)
        soft_NK = ops.softmax(logits_NK, -1)
        zeros_NK = soft_NK - ops.stop_gradient(soft_NK)  # with the gradient of the softmax
        zeros_NC = ops.MatMul()(zeros_NK, codebook_KC)
        entries_BTCHW = entries_NC.reshape(B, T, H, W, C).transpose(0, 1, 4, 2, 3)
        quantized_BTCHW = (entries_NC + zeros_NC).reshape(B, T, H, W, C).transpose(0, 1, 4, 2, 3)
        loss = self.distances(latents_BTCHW, entries_BTCHW, quantized_BTCHW) + ENTROPY_WEIGHT * entropy_loss(logits_NK)
        blended_BTCHW = latents_BTCHW + share * (quantized_BTCHW - latents_BTCHW)
        return blended_BTCHW, codes_N.reshape(B, T, H, W), share * loss

    def distances(self, latents: Tensor, entries: Tensor, quantized: Tensor) -> Tensor:
        """Return the three quantization losses: of both, of the latents alone, and, weighted, of the entries alone."""
        mean_squared_error = self.model.kernels.mean_squared_error
        of_latents = mean_squared_error(latents, ops.stop_gradient(entries))
        of_entries = mean_squared_error(entries, ops.stop_gradient(latents))
        return mean_squared_error(quantized, latents) + of_latents + self.commitment * of_entries


def entropy_loss(logits_NK: Tensor) -> Tensor:
    """Return the mean entropy of the codes of a latent, minus that of the codes of all latents.

    It is small when each latent has one code for certain, and the latents together use all codes.
    """
    log_probabilities_NK = ops.log_softmax(logits_NK / ENTROPY_TEMPERATURE, -1)
    probabilities_NK = ops.exp(log_probabilities_NK)
    N = logits_NK.shape[0]
    mean_K = probabilities_NK.sum(0) / N
    of_all = -(mean_K * ops.log(mean_K + EPS)).sum()
    return -(probabilities_NK * log_probabilities_NK).sum() / N - of_all


class TrainedCodebook:
    """The codebook that the step trains: initialized here, with its use counted by a moving average."""

    def __init__(self, quantizer: Quantizer, decay: float, seed: int):
        self.parameter = quantizer.embedding.weight
        self.decay = decay
        self.seed = seed
        self.counts_K = np.ones(self.parameter.shape[0], np.float64)
        self.is_initialized = False

    def state(self) -> dict[str, np.ndarray]:
        """Return the average for a checkpoint."""
        return {"counts": self.counts_K}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the average of a checkpoint."""
        self.counts_K, self.is_initialized = state["counts"].copy(), True

    def initialize_from_codebook(self) -> None:
        """Keep the codebook as it is, as if every code were in use: for fine-tuning."""
        self.is_initialized = True

    def update(self, latents_BTCHW: np.ndarray, codes_BTHW: np.ndarray, step: int) -> float:
        """Count one batch; return the share of codes in use.

        The first batch initializes a new codebook with latents, all scaled to their mean length: of two entries in the
        same direction, the longer one would always be chosen.
        """
        K = len(self.counts_K)
        if not self.is_initialized:
            latents_NC = latents_BTCHW.transpose(0, 1, 3, 4, 2).reshape(-1, self.parameter.shape[1])
            entries_KC = near_latents(latents_NC, K, np.random.default_rng((self.seed, step)))
            lengths_K1 = np.maximum(np.linalg.norm(entries_KC, axis=1, keepdims=True), EPS)
            ops.assign(self.parameter, Tensor((entries_KC / lengths_K1 * lengths_K1.mean()).astype(np.float32)))
            self.is_initialized = True
        self.counts_K = self.decay * self.counts_K + (1 - self.decay) * np.bincount(codes_BTHW.reshape(-1), minlength=K)
        return float((self.counts_K >= DEAD_CODE_RATIO * codes_BTHW.size / K).mean())
