"""Generates images and videos token by token, many at once.

With guidance a sequence has two rows of the KV cache, one for the prompt and one for the negative prompt, and both go
through one forward. The grammar of an image or a video is known in advance: control tokens are appended without being
sampled, the output head covers visual tokens only, and the control tokens after the last code are never computed.

Shape suffixes: B sequences, R rows of the KV cache, K codebook, T frames, H W grid of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.inference.continuous_batch import ContinuousBatch
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import check_finite, position_keys, sample
from lm_stage.inference.visual_sequence import VisualRequest, VisualSequence
from shared.tokens.layout import TokenLayout

if TYPE_CHECKING:
    from lm_stage.model.backend import CachedModel


class VisualGenerator(ContinuousBatch[VisualRequest, VisualSequence]):
    """Generates images and videos. The model's logits cover the visual tokens only.

    With guidance (a scale other than 1) the model has two rows a sequence.
    """

    def __init__(
        self,
        model: CachedModel,
        layout: TokenLayout,
        sampling: SamplingOptions,
        guidance_scale: float = 1.0,
        window: int = 1,
    ):
        self.is_guided = guidance_scale != 1.0
        super().__init__(model, sampling, rows_per_sequence=1 + self.is_guided)
        self.layout = layout
        self.guidance_scale = guidance_scale
        self.window = window
        self.token_ids_RL = np.zeros((model.rows, window), np.int32)

    def add(self, request: VisualRequest) -> VisualSequence:
        """Start an image or a video, or continue one that already has codes."""
        index = self.sequences.index(None)
        sequence = VisualSequence(request, self.layout, self.window)
        prompts: list[Sequence[int]] = [request.prompt_ids]
        if self.is_guided:
            assert request.negative_ids is not None, "guidance needs a negative prompt"
            prompts.append(request.negative_ids)
        for row, prompt_ids in zip(range(index, self.model.rows, self.batch_size), prompts):
            token_ids = [*prompt_ids, *sequence.body_so_far()]
            self.model.prefill(row, token_ids[:-1])
            self.positions_R[row] = len(token_ids) - 1
        self.sequences[index] = sequence
        return sequence

    def step(self) -> list[VisualSequence]:
        for index, sequence in self._running():
            self.token_ids_RL[index :: self.batch_size] = sequence.window_tokens()
        positions_RL = self.positions_R[:, None] + np.arange(self.window)
        logits_RLK = self.model.decode_step(self.token_ids_RL, positions_RL)
        sampled = self._sample(logits_RLK)
        finished = []
        for (index, sequence), tokens in zip(self._running(), sampled):
            begin = sequence.offset
            sequence.accept(tokens)
            self.positions_R[index :: self.batch_size] += sequence.offset - begin
            if sequence.is_done:
                finished.append(sequence)
                self._remove(index)
        return finished

    def _sample(self, logits_RLK: np.ndarray) -> list[np.ndarray]:
        """Return the tokens sampled for each running sequence, where the grammar leaves a choice."""
        running = self._running()
        sequences = [sequence for _, sequence in running]
        numbers_N, columns_N = np.nonzero([sequence.is_sampled() for sequence in sequences])
        rows_N = np.array([index for index, _ in running])[numbers_N]
        offsets_N = np.array([sequence.offset for sequence in sequences])[numbers_N] + columns_N
        logits_NK = self._guided(logits_RLK, rows_N, columns_N)
        check_finite(logits_NK, lambda n: sequences[numbers_N[n]].place(offsets_N[n]))
        noise_keys_N = np.array([sequence.noise_key for sequence in sequences], np.uint64)[numbers_N]
        codes_N = sample(logits_NK, position_keys(noise_keys_N, offsets_N), self.sampling)
        counts = np.bincount(numbers_N, minlength=len(running))
        return np.split(codes_N + self.layout.first_visual_token, counts.cumsum()[:-1])

    def _guided(self, logits_RLK: np.ndarray, rows_N: np.ndarray, columns_N: np.ndarray) -> np.ndarray:
        """Return some of the logits, after classifier-free guidance (arXiv:2207.12598).

        Upstream guides log-probabilities; logits differ from them by a constant a row, which changes no probability.
        """
        cond_NK = logits_RLK[rows_N, columns_N]
        if not self.is_guided:
            return cond_NK
        uncond_NK = logits_RLK[rows_N + self.batch_size, columns_N]
        return uncond_NK + self.guidance_scale * (cond_NK - uncond_NK)
