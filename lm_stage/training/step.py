"""One training step: gradients of some batches, clipped, then AdamW. Compiled, with static shapes only.

Shape suffixes: B rows, L tokens, S positions, D head size, C hidden size, K supervised positions.
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

from lm_stage.data.batch import BUCKETS, TrainingBatch
from lm_stage.model.decoder import Decoder, heads_of, rotary_tables
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.loss import ChunkedCrossEntropy
from lm_stage.training.optimizer import AdamW

LOSS_CHUNK = 1024  # positions whose logits exist at once
TINY = 1e-9


class Outcome(Enum):
    """The outcome of a step; only an applied step changes the weights."""

    APPLIED = "applied"
    EMPTY = "empty"  # no token was supervised
    RESCALED = "rescaled"  # gradients overflowed at the loss scale, which is smaller for the next step
    BAD = "bad"  # loss or gradients are not finite


@dataclass(frozen=True, slots=True)
class StepResult:
    """Mean loss per unit of weight, gradient norm before clipping, outcome, and useful tokens, over all processes.

    `is_stopped`: whether any process was asked to stop.
    """

    loss: float
    gradient_norm: float
    outcome: Outcome
    tokens: int
    is_stopped: bool


class BatchLoss(nn.Cell):
    """The loss of one batch of packed rows in which no sample is longer than `max_segment_length`."""

    def __init__(self, decoder: Decoder, seq_length: int, max_segment_length: int):
        super().__init__()
        self.decoder = decoder
        kernels, dtype = decoder.kernels, decoder.compute_dtype
        cos, sin = rotary_tables(decoder.config, seq_length)
        self.cos_SD, self.sin_SD = Tensor(cos, dtype=dtype), Tensor(sin, dtype=dtype)
        self.look_up = kernels.look_up
        self.attention = kernels.PackedAttention(heads_of(decoder.config), seq_length, max_segment_length, dtype)
        self.loss = ChunkedCrossEntropy(LOSS_CHUNK, kernels)

    def tensors_of(self, batch: TrainingBatch, bucket: int) -> tuple[Tensor, ...]:
        """Return the inputs of `construct`, with logits for `bucket` eighths of the positions."""
        inputs = self.attention.inputs(batch.token_ids_BL, batch.positions_BL, batch.segments_BL)
        return tuple(Tensor(array) for array in (*inputs, *batch.supervised(bucket)))

    def construct(
        self,
        token_ids_BL: Tensor,
        positions_BL: Tensor,
        packing: Tensor,
        indices_K: Tensor,
        targets_K: Tensor,
        weights_K: Tensor,
    ) -> Tensor:
        """Return the weighted sum of losses; `indices_K` are the supervised positions in the flattened rows.

        `packing` says which tokens belong to one sample, in the form that the attention takes.
        """
        model, mask = self.decoder.model, self.attention.mask(packing)
        cos_BLD, sin_BLD = self.look_up(self.cos_SD, positions_BL), self.look_up(self.sin_SD, positions_BL)
        attentions = (self.attention,) * len(model.layers)
        hidden_1KC = model.norm(model(token_ids_BL, cos_BLD, sin_BLD, attentions, mask, indices_K))
        hidden_KC = hidden_1KC.reshape(-1, hidden_1KC.shape[-1])
        return self.loss(hidden_KC, self.decoder.head_weight, targets_K, weights_K)[0]


class TrainStep(nn.Cell):
    """Computes gradients of a batch loss and applies them."""

    def __init__(
        self,
        batch_loss: BatchLoss,
        optimizer: AdamW,
        clip_norm: float,
        scaler: LossScaler | None = None,
        group: ProcessGroup | None = None,
    ):
        super().__init__()
        self.batch_loss = batch_loss
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.scaler = scaler or StaticLossScaler(1.0)
        self.group = group or ProcessGroup()
        self.gradient = ms.value_and_grad(self._loss, None, optimizer.parameters_, has_aux=True)

    def _loss(self, scale: Tensor, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.batch_loss(*arrays)
        return loss * scale, loss

    @ms.jit(jit_level="O0")
    def _accumulate(self, scale: Tensor, *arrays: Tensor) -> Tensor:
        (_, loss), gradients = self.gradient(scale, *arrays)
        return ops.depend(loss, self.optimizer.add(gradients))

    def run(
        self, batches: Sequence[TrainingBatch], number: int, learning_rate: float, is_stopped: bool = False
    ) -> StepResult:
        """Take one optimizer step over the batches of all processes; `number` counts applied steps from 1."""
        loss_scale = self._loss_scale()
        weight, bucket = self._totals(batches)
        scale = Tensor(loss_scale / max(weight, TINY), ms.float32)
        own_loss = 0.0
        for batch in batches:
            own_loss += float(self._accumulate(scale, *self.batch_loss.tensors_of(batch, bucket)).asnumpy())
        self.optimizer.reduce()
        own_tokens = sum(batch.useful_tokens for batch in batches)
        loss, tokens, stopped = self.group.sum(own_loss / max(weight, TINY), own_tokens, is_stopped).tolist()
        norm = self.optimizer.norm() / loss_scale
        outcome = self._judge(weight, loss, norm)
        if outcome is Outcome.APPLIED:
            clip = min(1.0, self.clip_norm / (norm + 1e-6)) if self.clip_norm else 1.0
            self.optimizer.step(number, learning_rate, clip / loss_scale)
        else:
            self.optimizer.clear()
        return StepResult(loss, norm, outcome, int(tokens), stopped > 0)

    def _totals(self, batches: Sequence[TrainingBatch]) -> tuple[float, int]:
        """Return the weight of the batches of all processes, and the bucket that all of them compute logits for."""
        own_weight = sum(batch.total_weight for batch in batches)
        own_bucket = max(batch.target_bucket for batch in batches)
        needed = (own_bucket >= bucket for bucket in range(1, BUCKETS + 1))
        weight, *needed_by = self.group.sum(own_weight, *needed).tolist()
        return weight, int(np.count_nonzero(needed_by))

    def _judge(self, weight: float, loss: float, norm: float) -> Outcome:
        """Return the outcome of a step, and adjust the loss scale."""
        if weight == 0:
            return Outcome.EMPTY
        if not math.isfinite(loss):
            return Outcome.BAD
        before = self._loss_scale()
        self.scaler.adjust(Tensor(math.isfinite(norm)))
        if math.isfinite(norm):
            return Outcome.APPLIED
        return Outcome.RESCALED if self._loss_scale() < before else Outcome.BAD

    def _loss_scale(self) -> float:
        return float(self.scaler.scale_value.asnumpy())


class Evaluation(nn.Cell):
    """The loss of held-out batches."""

    def __init__(self, batch_loss: BatchLoss, group: ProcessGroup | None = None):
        super().__init__()
        self.batch_loss = batch_loss
        self.group = group or ProcessGroup()

    @ms.jit(jit_level="O0")
    def _loss(self, *arrays: Tensor) -> Tensor:
        return self.batch_loss(*arrays)

    def mean_loss(self, batches: Sequence[TrainingBatch]) -> float:
        """Return the mean loss per unit of weight over the batches of all processes; a process may have none."""
        own_loss = sum(
            float(self._loss(*self.batch_loss.tensors_of(batch, batch.target_bucket)).asnumpy()) for batch in batches
        )
        loss, weight = self.group.sum(own_loss, sum(batch.total_weight for batch in batches)).tolist()
        return loss / max(weight, TINY)
