"""Generates images and videos token by token, many at once.

With guidance a sequence has two rows of the KV cache, one for the prompt and one for the negative prompt, and both go
through one forward. The grammar of an image or a video is known in advance: control tokens are appended without being
sampled, the output head covers visual tokens only, and the control tokens after the last code are never computed.

Shape suffixes: B sequences, R rows of the KV cache, K codebook, T frames, H W grid of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_stage.inference.candidate_sampling import count_to_select, sample_candidates
from lm_stage.inference.continuous_batch import ContinuousBatch
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import check_all_finite, check_finite, position_keys, sample
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
        count = count_to_select(sampling, layout.codebook_size)
        self.candidate_step = model.candidate_step(guidance_scale, count) if count else None

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
        finished = []
        for (index, sequence), tokens in zip(self._running(), self._sampled()):
            begin = sequence.offset
            sequence.accept(tokens)
            self.positions_R[index :: self.batch_size] += sequence.offset - begin
            if sequence.is_done:
                finished.append(sequence)
                self._remove(index)
        return finished

    def _sampled(self) -> list[np.ndarray]:
        """Run one forward; return the tokens sampled for each running sequence, where the grammar leaves a choice."""
        running = self._running()
        sequences = [sequence for _, sequence in running]
        numbers_N, columns_N = np.nonzero([sequence.is_sampled() for sequence in sequences])
        rows_N = np.array([index for index, _ in running])[numbers_N]
        offsets_N = np.array([sequence.offset for sequence in sequences])[numbers_N] + columns_N
        noise_keys_N = np.array([sequence.noise_key for sequence in sequences], np.uint64)[numbers_N]
        keys_N = position_keys(noise_keys_N, offsets_N)
        codes_N = self._choose(rows_N, columns_N, keys_N, lambda n: sequences[numbers_N[n]].place(offsets_N[n]))
        counts = np.bincount(numbers_N, minlength=len(running))
        return np.split(codes_N + self.layout.first_visual_token, counts.cumsum()[:-1])

    def _choose(
        self, rows_N: np.ndarray, columns_N: np.ndarray, keys_N: np.ndarray, place: Callable[[int], str]
    ) -> np.ndarray:
        """Run one forward; return the codes sampled at some positions, whose `place` is named if they cannot be."""
        positions_RL = self.positions_R[:, None] + np.arange(self.window)
        if self.candidate_step is None:
            logits_RLK = self.model.decode_step(self.token_ids_RL, positions_RL)
        else:
            candidates = self.candidate_step(self.token_ids_RL, positions_RL)
            numbers_N = rows_N * self.window + columns_N
            check_all_finite(candidates.is_finite_P[numbers_N], place)
            selected = candidates.logits_Pk[numbers_N], candidates.tokens_Pk[numbers_N]
            if (codes_N := sample_candidates(*selected, keys_N, self.sampling)) is not None:
                return codes_N
            logits_RLK = candidates.all_logits()
        logits_NK = self._guided(logits_RLK, rows_N, columns_N)
        check_finite(logits_NK, place)
        return sample(logits_NK, keys_N, self.sampling)

    def _guided(self, logits_RLK: np.ndarray, rows_N: np.ndarray, columns_N: np.ndarray) -> np.ndarray:
        """Return some of the logits, after classifier-free guidance (arXiv:2207.12598).

        Upstream guides log-probabilities; logits differ from them by a constant a row, which changes no probability.
        """
        cond_NK = logits_RLK[rows_N, columns_N]
        if not self.is_guided:
            return cond_NK
        uncond_NK = logits_RLK[rows_N + self.batch_size, columns_N]
        return uncond_NK + self.guidance_scale * (cond_NK - uncond_NK)
