"""ZeRO takes the steps of AdamW, with slices of the state and parameters in half precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops
from mindspore.amp import DynamicLossScaler

from lm_stage.data.batch import TrainingBatch
from lm_stage.model.weights import read_weights
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.step import Outcome, TrainStep
from lm_stage.training.zero import ZeroAdamW
from shared.device import setup_device
from tests.support.golden_language import GoldenLanguageModel
from tests.support.golden_training import ADAMW, TOLERANCE, first_sequence, zero_step


def whole_weights(step: TrainStep) -> dict[str, np.ndarray]:
    return {name: tensor.read().copy() for name, tensor in step.optimizer.whole_weights().items()}


@pytest.mark.slow  # the model of the next test takes golden steps too, and has all kinds of parameters
def test_zero_takes_the_golden_steps(golden_lm: Path, expected: dict[str, Any], batch: TrainingBatch) -> None:
    step = zero_step(golden_lm, 70, ms.float32)
    losses = [step.run([batch], number + 1, 1e-3).loss for number in range(10)]
    assert losses == pytest.approx(expected["train"]["losses"], rel=TOLERANCE)


def test_norms_of_queries_and_keys_are_sliced_and_not_decayed(
    golden_emu35: Path, emu35: GoldenLanguageModel, emu35_training: dict[str, Any]
) -> None:
    batch = first_sequence(emu35)
    step = zero_step(golden_emu35, batch.token_ids_BL.size, ms.float32)
    optimizer = step.optimizer
    decayed = {name.removeprefix("decoder."): one for name, one in zip(optimizer.names, optimizer.has_decay)}
    assert {name for name in decayed if not decayed[name]} == {name for name in decayed if "norm" in name}
    held = {name.removeprefix("decoder."): one.size for name, one in zip(optimizer.names, optimizer.weights)}
    assert held["model.layers.2.self_attn.q_norm.weight"] == held["model.layers.0.self_attn.k_norm.weight"] == 32
    losses = [step.run([batch], number + 1, 1e-3).loss for number in range(10)]
    assert losses == pytest.approx(emu35_training["train"]["losses"], rel=TOLERANCE)


def test_zero_keeps_small_steps_that_half_precision_loses(golden_lm: Path, batch: TrainingBatch) -> None:
    """Steps of 1e-6 do not show in most float16 parameters, but add up in the float32 weights beside them."""
    step = zero_step(golden_lm, 70, ms.float16)
    before = whole_weights(step)
    stored = {name: tensor.float32() for name, tensor in read_weights(golden_lm).items()}
    assert all(np.array_equal(before[name], stored[name]) for name in before)
    for number in range(3):
        assert step.run([batch], number + 1, 1e-6).outcome is Outcome.APPLIED
    after, parameters = whole_weights(step), step.optimizer.parameters_
    assert all(not np.array_equal(after[name], before[name]) for name in before)
    for name, p in zip(step.optimizer.names, parameters):
        assert np.array_equal(p.asnumpy(), after[name].astype(np.float16))


def test_gradients_that_overflow_halve_the_loss_scale_and_change_nothing(
    golden_lm: Path, expected: dict[str, Any], batch: TrainingBatch
) -> None:
    """In float16, from a scale that is far too large; it doubles again after steps without overflow."""
    step = zero_step(golden_lm, 70, ms.float16, ms.float16)
    step.scaler, scales, before = DynamicLossScaler(2.0**40, 2, 3), [], whole_weights(step)
    for _ in range(40):
        scales.append(float(step.scaler.scale_value.asnumpy()))
        result = step.run([batch], 1, 1e-3)
        assert result.loss == pytest.approx(expected["loss_after_prompt"], rel=2e-3)
        if result.outcome is Outcome.APPLIED:
            break
        assert result.outcome is Outcome.RESCALED
        assert all(np.array_equal(now, before[name]) for name, now in whole_weights(step).items())
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


class Recorder(nn.Cell):
    """Stands for a collective of two processes that hold the same; records the types and sizes that it is given."""

    def __init__(self, result: Callable[[ms.Tensor], ms.Tensor]):
        super().__init__()
        self.seen: list[tuple[Any, int]] = []
        self.result = result

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        self.seen.append((x.dtype, x.size))
        return self.result(x)


def two_parameters(dtype: Any) -> tuple[list[ms.Parameter], ZeroAdamW]:
    """Return an embedding and a norm, in the order of a decoder, and their optimizer in one of two processes."""
    setup_device("cpu")
    shapes = {"model.embed": (4, 2), "model.norm": (6,)}
    parameters = [ms.Parameter(ms.Tensor(np.zeros(shape), dtype), name=name) for name, shape in shapes.items()]
    return parameters, ZeroAdamW(parameters, ADAMW, ProcessGroup(0, 2))


def test_slices_are_rounded_before_they_are_gathered() -> None:
    """Half the traffic of gathering float32, and the same bits."""
    parameters, optimizer = two_parameters(ms.float16)
    values = {p.name: np.linspace(0.1, 0.9, p.size, dtype=np.float32).reshape(p.shape) for p in parameters}
    optimizer.load_weights(values.__getitem__)
    optimizer.gather = Recorder(lambda x: ops.concat((x, x)))
    ZeroAdamW._publish.__wrapped__(optimizer)
    assert optimizer.gather.seen == [(ms.float16, 4), (ms.float16, 3)]
    for p in parameters:
        own = values[p.name].reshape(-1)[: p.size // 2]
        assert np.array_equal(p.asnumpy().reshape(-1), np.concatenate((own, own)).astype(np.float16))


def test_gradients_are_reduced_in_the_order_in_which_they_are_computed() -> None:
    """The last parameter first: otherwise all reduced slices wait for the gradient of the embedding."""
    parameters, optimizer = two_parameters(ms.float32)
    optimizer.sum_slices = Recorder(lambda x: 2 * x[: x.shape[0] // 2])
    optimizer.add(tuple(ops.ones(p.shape) for p in parameters))
    assert [size for _, size in optimizer.sum_slices.seen] == [6, 8]
    assert [gradient.asnumpy().tolist() for gradient in optimizer.gradients] == [[2.0] * 4, [2.0] * 3]
