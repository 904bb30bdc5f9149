"""Training steps on the golden decoder: its sequences as batches, and steps with either optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import ops

from lm_stage.data.batch import TrainingBatch
from lm_stage.data.sequences import TrainingSequence
from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder
from lm_stage.model.kernels import Kernels, cpu
from lm_stage.model.weights import load_weights, read_weights
from lm_stage.training.optimizer import AdamW, AdamWHyperparameters
from lm_stage.training.step import BatchLoss, TrainStep
from lm_stage.training.zero import ZeroAdamW
from shared.device import setup_device
from tests.support.golden_language import GoldenLanguageModel

TOLERANCE = 1e-3  # relative; measured: losses and norms 5e-6, the ten-step trajectory 2.3e-4
ADAMW = AdamWHyperparameters(beta1=0.9, beta2=0.95, eps=1e-6, weight_decay=0.1)


def batch_of(rows: list[list[tuple[np.ndarray, int]]], length: int) -> TrainingBatch:
    """Return rows of (token ids, length of the prompt), supervised after the prompt."""
    batch = TrainingBatch.empty(len(rows), length, pad=0)
    for row, samples in enumerate(rows):
        begin = 0
        for segment, (token_ids, prompt) in enumerate(samples):
            weights = (np.arange(len(token_ids)) >= prompt).astype(np.float32)
            begin = batch.write(row, begin, segment, TrainingSequence(token_ids, weights))
    return batch


def golden_decoder(
    directory: Path, dtype: Any = ms.float32, compute_dtype: Any = ms.float32, kernels: Kernels = cpu
) -> Decoder:
    """Return the golden decoder with its weights."""
    setup_device("cpu")
    decoder = Decoder(DecoderConfig.from_directory(directory), dtype, kernels, compute_dtype)
    load_weights(decoder, directory)
    return decoder


def train_step(directory: Path, length: int, kernels: Kernels = cpu) -> TrainStep:
    """Return a step that updates the parameters themselves."""
    decoder = golden_decoder(directory, kernels=kernels)
    optimizer = AdamW(decoder.trainable_params(), ADAMW, kernels=kernels)
    return TrainStep(BatchLoss(decoder, length, length), optimizer, 1.0)


def restart(step: TrainStep, directory: Path) -> TrainStep:
    """Give a step the weights of a checkpoint again, and an optimizer without history; its graphs stay compiled."""
    tensors, optimizer = read_weights(directory), step.optimizer
    for name, p in zip(optimizer.names, optimizer.parameters_):
        ops.assign(p, ms.Tensor(tensors[name.removeprefix("decoder.")].float32()))
    for state in (*optimizer.m, *optimizer.v, *optimizer.gradients):
        ops.assign(state, ops.zeros_like(state))
    return step


def loss_and_gradients(step: TrainStep, batch: TrainingBatch) -> tuple[float, dict[str, np.ndarray]]:
    """Return the mean loss of a batch, and its gradients by the name of the weight; the step accumulates nothing."""
    scale = ms.Tensor(1 / batch.total_weight, ms.float32)
    loss = step._accumulate(scale, *step.batch_loss.tensors_of(batch, batch.target_bucket))
    gradients = zip(step.optimizer.names, step.optimizer.gradients)
    arrays = {name.removeprefix("decoder."): gradient.asnumpy().copy() for name, gradient in gradients}
    step.optimizer.clear()
    return float(loss) / batch.total_weight, arrays


def first_sequence(golden: GoldenLanguageModel) -> TrainingBatch:
    """Return a row with the first golden sequence, supervised after its prompt."""
    prompt = golden.prompts[0]
    token_ids = np.array([*prompt, *golden.arrays["tokens_0"]], np.int32)
    return batch_of([[(token_ids, len(prompt))]], len(token_ids))


def zero_step(directory: Path, length: int, dtype: Any, compute_dtype: Any = ms.float32) -> TrainStep:
    """Return a step with float32 weights beside parameters of another type."""
    decoder = golden_decoder(directory, dtype, compute_dtype)
    optimizer = ZeroAdamW(decoder.trainable_params(), ADAMW)
    tensors = read_weights(directory)
    optimizer.load_weights(lambda name: tensors[name].float32())
    return TrainStep(BatchLoss(decoder, length, length), optimizer, 1.0)
