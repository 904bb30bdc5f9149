"""The graphs of the language stage: logits, prefill, decode step, and the training and optimizer steps of `emu3 sft`.

Shape suffixes: B batch, L sequence, R rows of the KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import Tensor

from lm_stage.data.batch import BUCKETS, TrainingBatch
from lm_stage.inference.candidate_sampling import SPARE
from lm_stage.model.backend import NativeBackend
from lm_stage.model.decoder import Decoder
from lm_stage.model.kernels import select
from lm_stage.model.kv_cache import PREFILL_CHUNKS
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.model_state import adamw_hyperparameters, build_decoder, trained_parameters
from lm_stage.training.optimizer import AdamW
from lm_stage.training.options import SftOptions
from lm_stage.training.step import BatchLoss, TrainStep
from lm_stage.training.zero import ZeroAdamW
from pipelines.dry_run.graphs import Call, Graph, GraphSizes
from shared.device import DTYPES, Device

LORA_RANK = 16
WINDOW = 16
GUIDANCE_SCALE, CANDIDATES = 3.0, 2048 + SPARE
PLAIN = SftOptions(("dataset",), "run")


def _backend(sizes: GraphSizes, device: Device) -> NativeBackend:
    """Build a decoder without weights, as `LanguageModel` does."""
    decoder = Decoder(sizes.decoder, getattr(ms, device.dtype), select(device))
    decoder.set_train(False)
    return NativeBackend(decoder)


def _logits(sizes: GraphSizes, device: Device) -> Call:
    backend, token_ids_L = _backend(sizes, device), np.zeros(PREFILL_CHUNKS[0], np.int32)
    return lambda: backend.logits(token_ids_L)


def _prefill(sizes: GraphSizes, device: Device) -> Call:
    model = _backend(sizes, device).cached(sizes.rows, sizes.cache_length, *sizes.visual_tokens)
    return lambda: model.prefill(0, [0] * PREFILL_CHUNKS[0])


def _decode_step(sizes: GraphSizes, device: Device, window: int = 1) -> Call:
    model = _backend(sizes, device).cached(sizes.rows, sizes.cache_length, *sizes.visual_tokens)
    zeros_RL = np.zeros((sizes.rows, window), np.int32)
    return lambda: model.decode_step(zeros_RL, zeros_RL)


def _candidates(sizes: GraphSizes, device: Device) -> Call:
    """Return the selection from the logits of a guided step; nothing with kernels that leave it to the host."""
    first, end = sizes.visual_tokens
    candidates = select(device).Candidates(GUIDANCE_SCALE, min(CANDIDATES, (end - first) // 2))
    logits_RK = Tensor(np.zeros((sizes.rows, end - first), np.float32))
    return lambda: candidates and candidates(logits_RK)


@dataclass(frozen=True, slots=True)
class Training:
    """Builds the graphs of `emu3 sft` with some options, in one of `cards` processes."""

    options: SftOptions = PLAIN
    cards: int = 1

    def step(self, sizes: GraphSizes, device: Device) -> TrainStep:
        decoder = build_decoder(self.options, sizes.decoder, device)
        group = ProcessGroup(0, self.cards, has_reduce_scatter=self.cards > 1)
        optimizer_class = ZeroAdamW if self.options.zero else AdamW
        optimizer = optimizer_class(
            trained_parameters(decoder, self.options), adamw_hyperparameters(self.options), group, decoder.kernels
        )
        loss = BatchLoss(decoder, sizes.seq_length, sizes.seq_length)
        return TrainStep(loss, optimizer, self.options.clip_norm, group=group)

    def gradient(self, sizes: GraphSizes, device: Device) -> Call:
        """Return the call that computes gradients of a batch and adds them to the accumulated ones."""
        return _gradient(self.step(sizes, device), sizes.seq_length)

    def update(self, sizes: GraphSizes, device: Device) -> Call:
        """Return the call that applies the accumulated gradients."""
        return _update(self.step(sizes, device).optimizer)

    def skip(self, sizes: GraphSizes, device: Device) -> Call:
        """Return the call that discards the accumulated gradients."""
        return self.step(sizes, device).optimizer.clear


def whole_step(cards: int, sizes: GraphSizes, device: Device) -> Call:
    """Return the call of a whole step of `emu3 sft --recompute`, with `--zero` on more than one card."""
    step = Training(replace(PLAIN, recompute=True, zero=cards > 1), cards).step(sizes, device)
    gradient, update = _gradient(step, sizes.seq_length), _update(step.optimizer)

    def run() -> None:
        gradient()
        update()

    return run


# Steps of `TrainStep.run` that are compiled, called one by one: it decides by values, which a simulation does not have.


def _gradient(step: TrainStep, length: int) -> Call:
    inputs = step.batch_loss.tensors_of(_batch(length), BUCKETS)
    return lambda: step._accumulate(Tensor(1.0, ms.float32), *inputs)


def _update(optimizer: AdamW) -> Call:
    def apply() -> None:
        optimizer.reduce()
        optimizer._sum_of_squares()
        optimizer.step(1, 1e-4, 1.0)

    return apply


def _batch(length: int) -> TrainingBatch:
    """Return one row that two samples fill."""
    batch = TrainingBatch.empty(1, length, pad=0)
    batch.segments_BL[:] = np.arange(length) // (length // 2)
    batch.positions_BL[:] = np.arange(length) % (length // 2)
    return batch


ZERO = Training(replace(PLAIN, zero=True), cards=8)
LANGUAGE_GRAPHS = (
    Graph("logits", _logits, DTYPES),
    Graph("prefill", _prefill, DTYPES),
    Graph("decode step", _decode_step, DTYPES),
    Graph("decode step, window", partial(_decode_step, window=WINDOW), DTYPES),
    Graph("candidates", _candidates, ("float32",)),  # as logits are in any type
    Graph("training step", Training().gradient, DTYPES),
    Graph("training step, recompute", Training(replace(PLAIN, recompute=True)).gradient, DTYPES),
    Graph("training step, LoRA", Training(replace(PLAIN, lora_rank=LORA_RANK)).gradient, DTYPES),
    Graph("training step, ZeRO", ZERO.gradient, DTYPES, ZERO.cards),
    Graph("optimizer step", Training().update, ("float32",)),  # the state is float32 in training of any type
    Graph("optimizer step, ZeRO", ZERO.update, DTYPES, ZERO.cards),
    Graph("skipped step", Training().skip, ("float32",)),
)
