"""ZeRO takes the steps of AdamW, with slices of the state and parameters in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore.amp import DynamicLossScaler

from lm_stage.data.batch import TrainingBatch
from lm_stage.model.weights import read_weights
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.step import Outcome
from lm_stage.training.zero import ZeroAdamW
from shared.device import setup_device
from tests.support.golden_training import ADAMW, TOLERANCE, zero_step


def test_zero_takes_the_golden_steps(golden_lm: Path, expected: dict[str, Any], batch: TrainingBatch) -> None:
    step = zero_step(golden_lm, 70, ms.float32)
    losses = [step.run([batch], number + 1, 1e-3).loss for number in range(10)]
    assert losses == pytest.approx(expected["train"]["losses"], rel=TOLERANCE)


def test_zero_keeps_small_steps_that_half_precision_loses(golden_lm: Path, batch: TrainingBatch) -> None:
    """Steps of 1e-6 do not show in most float16 parameters, but add up in the float32 weights beside them."""
    step = zero_step(golden_lm, 70, ms.float16)
    before = dict(step.optimizer.whole_weights())
    stored = {name: tensor.float32() for name, tensor in read_weights(golden_lm).items()}
    assert all(np.array_equal(before[name], stored[name]) for name in before)
    for number in range(3):
        assert step.run([batch], number + 1, 1e-6).outcome is Outcome.APPLIED
    after, parameters = dict(step.optimizer.whole_weights()), step.optimizer.parameters_
    assert all(not np.array_equal(after[name], before[name]) for name in before)
    for name, p in zip(step.optimizer.names, parameters):
        assert np.array_equal(p.asnumpy(), after[name].astype(np.float16))


def test_gradients_that_overflow_halve_the_loss_scale_and_change_nothing(
    golden_lm: Path, expected: dict[str, Any], batch: TrainingBatch
) -> None:
    """In float16, from a scale that is far too large; it doubles again after steps without overflow."""
    step = zero_step(golden_lm, 70, ms.float16, ms.float16)
    step.scaler, scales, before = DynamicLossScaler(2.0**40, 2, 3), [], dict(step.optimizer.whole_weights())
    for _ in range(40):
        scales.append(float(step.scaler.scale_value.asnumpy()))
        result = step.run([batch], 1, 1e-3)
        assert result.loss == pytest.approx(expected["loss_after_prompt"], rel=2e-3)
        if result.outcome is Outcome.APPLIED:
            break
        assert result.outcome is Outcome.RESCALED
        assert all(np.array_equal(now, before[name]) for name, now in step.optimizer.whole_weights())
    assert scales == [2.0 ** (40 - number) for number in range(len(scales))]
    assert 2 <= len(scales) < 40
    assert result.gradient_norm == pytest.approx(expected["train"]["grad_norms_before_clip"][0], rel=2e-2)
    for number in (2, 3):
        step.run([batch], number, 1e-6)
    assert float(step.scaler.scale_value.asnumpy()) == 2 * scales[-1]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_slices_of_all_processes_add_up_to_the_tensor(size: int) -> None:
    """A tensor that does not divide evenly is padded, and the padding is removed again."""
    setup_device("cpu")
    whole = np.arange(35, dtype=np.float32).reshape(5, 7)
    p = ms.Parameter(ms.Tensor(whole), name="p")
    slices = []
    for rank in range(size):
        optimizer = ZeroAdamW([p], ADAMW, ProcessGroup(rank, size))
        optimizer.load_weights({"p": whole}.__getitem__)
        slices.append(optimizer.weights[0].asnumpy())
    assert len({len(one) for one in slices}) == 1
    assert np.array_equal(np.concatenate(slices)[:35].reshape(5, 7), whole)
