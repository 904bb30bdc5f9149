"""Check of training: ten losses of AdamW on the embedded language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.doctor.check import PLAIN_KERNELS, Finding, Setting
from pipelines.doctor.expected import expected
from pipelines.doctor.tolerances import TOLERANCES, relative_error

if TYPE_CHECKING:
    from lm_stage.data.batch import TrainingBatch

STEPS, LEARNING_RATE, CLIP_NORM = 10, 3e-4, 1.0
ROWS, SEQ_LENGTH, SAMPLE_LENGTHS = 2, 128, (70, 50)
NEXT_STEP = f"do not train with this number type; {PLAIN_KERNELS}"


def losses(device: str, dtype: str, kernels: str) -> np.ndarray:
    """Return the losses of ten steps on one batch of packed random tokens, computed in a number type."""
    import mindspore as ms

    from lm_stage.model.config import DecoderConfig
    from lm_stage.model.decoder import Decoder
    from lm_stage.model.kernels import select
    from lm_stage.model.options import EMBEDDED_MODEL
    from lm_stage.model.weights import load_weights
    from lm_stage.training.optimizer import AdamW, AdamWHyperparameters
    from lm_stage.training.step import BatchLoss, TrainStep
    from shared.device import setup_device

    chosen = setup_device(device, dtype, kernels=kernels)
    config = DecoderConfig.from_directory(EMBEDDED_MODEL)
    decoder = Decoder(config, ms.float32, select(chosen), compute_dtype=getattr(ms, dtype))
    load_weights(decoder, EMBEDDED_MODEL)
    optimizer = AdamW(decoder.trainable_params(), AdamWHyperparameters(), kernels=decoder.kernels)
    step = TrainStep(BatchLoss(decoder, SEQ_LENGTH, max(SAMPLE_LENGTHS)), optimizer, CLIP_NORM)
    batch = random_batch(config.vocab_size)
    return np.array([step.run([batch], number, LEARNING_RATE).loss for number in range(1, STEPS + 1)])


def random_batch(vocab_size: int) -> TrainingBatch:
    """Return rows of two samples each, supervised after their first ten tokens."""
    from lm_stage.data.batch import TrainingBatch
    from lm_stage.data.sequences import TrainingSequence

    random = np.random.Generator(np.random.PCG64(15))
    batch = TrainingBatch.empty(ROWS, SEQ_LENGTH, pad=0)
    for row in range(ROWS):
        begin = 0
        for segment, length in enumerate(SAMPLE_LENGTHS):
            token_ids = random.integers(0, vocab_size, length).astype(np.int32)
            weights = (np.arange(length) >= 10).astype(np.float32)
            begin = batch.write(row, begin, segment, TrainingSequence(token_ids, weights))
    return batch


def check_training(setting: Setting, dtype: str) -> Finding:
    """Ten losses, each of which depends on all gradients and updates before it."""
    found = losses(setting.device, dtype, setting.kernels)
    error, allowed = relative_error(found / expected()["losses"], np.ones(STEPS)), TOLERANCES[dtype].losses
    losses_text = f"ten losses from {found[0]:.4f} to {found[-1]:.4f}"
    reason = f"{losses_text} differ by {error:.2g} of themselves, at most {allowed:g} is allowed"
    return Finding.of(error <= allowed, reason, NEXT_STEP, {"relative_error": error, "last_loss": float(found[-1])})
