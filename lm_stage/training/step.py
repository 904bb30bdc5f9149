"""One training step: gradients of some batches, clipped, to AdamW. Compiled; all shapes static.

Shape suffixes: B rows, L tokens, S positions, D head size, M = B·L, K supervised places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.amp import LossScaler, StaticLossScaler

from lm_stage.data.batch import TrainingBatch
from lm_stage.model.attention import PackedAttention
from lm_stage.model.decoder import Decoder, rotary_tables
from lm_stage.training.adamw import AdamW
from lm_stage.training.distributed import Group
from lm_stage.training.loss import ChunkedCrossEntropy

LOSS_CHUNK = 1024  # positions whose logits exist at once
TINY = 1e-9


class Outcome(Enum):
    """What came of a step; only the first has moved anything."""

    TAKEN = "taken"
    EMPTY = "empty"  # no token was supervised
    RESCALED = "rescaled"  # gradients overflowed at the loss scale: the next has a smaller one
    BAD = "bad"  # loss or gradients are not finite


@dataclass(frozen=True, slots=True)
class StepResult:
    """Mean loss a supervised weight, norm of the gradient before clipping, and what came of it.

    All of them, and `tokens`, are of all processes; `is_stopped` says whether one of them is to stop.
    """

    loss: float
    gradient_norm: float
    outcome: Outcome
    tokens: int
    is_stopped: bool


class BatchLoss(nn.Cell):
    """Loss of one batch of packed rows, no sample in them longer than `longest`."""

    def __init__(self, decoder: Decoder, row_length: int, longest: int):
        super().__init__()
        self.decoder = decoder
        dtype = decoder.model.compute_dtype
        cos, sin = rotary_tables(decoder.config, row_length)
        self.cos_SD, self.sin_SD = Tensor(cos, dtype=dtype), Tensor(sin, dtype=dtype)
        self.attention = PackedAttention(decoder.model.attention, row_length, longest)
        self.L = row_length
        self.loss = ChunkedCrossEntropy(LOSS_CHUNK)

    def construct(
        self,
        token_ids_BL: Tensor,
        positions_BL: Tensor,
        segments_BL: Tensor,
        places_K: Tensor,
        targets_K: Tensor,
        weights_K: Tensor,
    ) -> Tensor:
        """The weighted sum of losses; `places_K` are those in the flattened rows whose targets count."""
        B = token_ids_BL.shape[0]
        cos = ops.gather(self.cos_SD, positions_BL, 0).reshape(B, 1, self.L, -1)
        sin = ops.gather(self.sin_SD, positions_BL, 0).reshape(B, 1, self.L, -1)
        hidden_BLC = self.decoder.model(token_ids_BL, cos, sin, self.attention, self.attention.mask(segments_BL))
        hidden_MC = hidden_BLC.reshape(B * self.L, -1)
        return self.loss(hidden_MC, self.decoder.head_weight, places_K, targets_K, weights_K)[0]


class TrainStep(nn.Cell):
    """Gradients and their application. No sample in a row is longer than `longest`."""

    def __init__(
        self,
        decoder: Decoder,
        row_length: int,
        longest: int,
        optimizer: AdamW,
        clip_norm: float,
        scaler: LossScaler | None = None,
        group: Group | None = None,
    ):
        super().__init__()
        self.batch_loss = BatchLoss(decoder, row_length, longest)
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.scaler = scaler or StaticLossScaler(1.0)
        self.group = group or Group()
        self.gradient = ms.value_and_grad(self._loss, None, optimizer.parameters_, has_aux=True)

    def _loss(self, scale: Tensor, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.batch_loss(*arrays)
        return loss * scale, loss

    @ms.jit(jit_level="O0")
    def _accumulate(self, scale: Tensor, *arrays: Tensor) -> Tensor:
        (_, loss), gradients = self.gradient(scale, *arrays)
        return ops.depend(loss, self.optimizer.add(gradients))

    def take(
        self, batches: Sequence[TrainingBatch], number: int, learning_rate: float, is_stopped: bool = False
    ) -> StepResult:
        """One optimizer step over the sum of the batches of all processes; `number` counts steps taken, from 1."""
        loss_scale = self._loss_scale()
        weight, eighths = self._totals(batches)
        scale = Tensor(loss_scale / max(weight, TINY), ms.float32)
        own_loss = 0.0
        for batch in batches:
            own_loss += float(self._accumulate(scale, *tensors_of(batch, eighths)).asnumpy())
        self.optimizer.reduce()
        tokens = sum(batch.useful_tokens for batch in batches)
        loss, tokens_of_all, stopped = self.group.sum(own_loss / max(weight, TINY), tokens, is_stopped).tolist()
        norm = self.optimizer.norm() / loss_scale
        outcome = self._outcome(weight, loss, norm)
        if outcome is Outcome.TAKEN:
            clip = min(1.0, self.clip_norm / (norm + 1e-6)) if self.clip_norm else 1.0
            self.optimizer.step(number, learning_rate, clip / loss_scale)
        else:
            self.optimizer.clear()
        return StepResult(loss, norm, outcome, int(tokens_of_all), stopped > 0)

    def _totals(self, batches: Sequence[TrainingBatch]) -> tuple[float, int]:
        """Weight of the batches of all processes, and the eighths of places for which all compute logits."""
        own_weight, own_eighths = sum(batch.total_weight for batch in batches), max(batch.eighths for batch in batches)
        weight, *reached = self.group.sum(own_weight, *(own_eighths >= eighths for eighths in range(1, 9))).tolist()
        return weight, int(np.count_nonzero(reached))

    def _outcome(self, weight: float, loss: float, norm: float) -> Outcome:
        """Also adjusts the loss scale."""
        if weight == 0:
            return Outcome.EMPTY
        if not math.isfinite(loss):
            return Outcome.BAD
        before = self._loss_scale()
        self.scaler.adjust(Tensor(math.isfinite(norm)))
        if math.isfinite(norm):
            return Outcome.TAKEN
        return Outcome.RESCALED if self._loss_scale() < before else Outcome.BAD

    def _loss_scale(self) -> float:
        return float(self.scaler.scale_value.asnumpy())


class Evaluation(nn.Cell):
    """The loss of batches that are not trained on."""

    def __init__(self, decoder: Decoder, row_length: int, longest: int, group: Group | None = None):
        super().__init__()
        self.batch_loss = BatchLoss(decoder, row_length, longest)
        self.group = group or Group()

    @ms.jit(jit_level="O0")
    def _loss(self, *arrays: Tensor) -> Tensor:
        return self.batch_loss(*arrays)

    def mean_loss(self, batches: Sequence[TrainingBatch]) -> float:
        """Mean loss a supervised weight, over the batches of all processes."""
        own_loss = sum(float(self._loss(*tensors_of(batch, batch.eighths)).asnumpy()) for batch in batches)
        loss, weight = self.group.sum(own_loss, sum(batch.total_weight for batch in batches)).tolist()
        return loss / max(weight, TINY)


def tensors_of(batch: TrainingBatch, eighths: int) -> tuple[Tensor, ...]:
    """What `BatchLoss` takes, with logits for so many eighths of the places."""
    arrays = (batch.token_ids_BL, batch.positions_BL, batch.segments_BL, *batch.supervised(eighths))
    return tuple(Tensor(array) for array in arrays)
