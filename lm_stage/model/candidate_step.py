"""A decode step whose device selects the most likely tokens, so that few of the logits are copied to the host.

Shape suffixes: R rows of a KV cache, L tokens of a step, M = R·L, K output range, P positions (L of each sequence),
k candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from mindspore import Tensor, nn


@dataclass(frozen=True, slots=True)
class Candidates:
    """The largest logits of each position after guidance (P, k), float32, in descending order, and their tokens (P, k).

    `is_finite_P` is about all logits of a position. `all_logits` copies those of the step (R, L, K), without guidance.
    """

    logits_Pk: np.ndarray
    tokens_Pk: np.ndarray
    is_finite_P: np.ndarray
    all_logits: Callable[[], np.ndarray]


class StepModel(Protocol):
    """A model with a KV cache whose logits can stay on the device."""

    def step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> Tensor:
        """Write the next L tokens of each row; return their float32 logits (M, K)."""


class CandidateStep:
    """A decode step followed by a selection; with guidance, row i of n sequences is guided by row n + i."""

    def __init__(self, model: StepModel, select: nn.Cell):
        self.model, self.select = model, select

    @classmethod
    def of(cls, model: StepModel, select: nn.Cell | None) -> CandidateStep | None:
        """Return the step with a selection; None without one: the host selects."""
        return None if select is None else cls(model, select)

    def __call__(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> Candidates:
        """Write the next L tokens of each row, as `decode_step` of the model does."""
        logits_MK = self.model.step(token_ids_RL, positions_RL)
        logits_Pk, tokens_Pk, is_finite_P = (tensor.asnumpy() for tensor in self.select(logits_MK))
        shape_RLK = (*token_ids_RL.shape, -1)
        return Candidates(logits_Pk, tokens_Pk, is_finite_P, lambda: logits_MK.asnumpy().reshape(shape_RLK))
