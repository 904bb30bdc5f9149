"""The training step against golden data; chunks, accumulation, padding and packing change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore.amp import DynamicLossScaler

from lm_stage.data.batch import PADDING, TrainingBatch
from lm_stage.model.config import DecoderConfig
from lm_stage.model.decoder import Decoder
from lm_stage.model.weights import load_weights, read_weights
from lm_stage.training.adamw import AdamW, AdamWHyperparameters
from lm_stage.training.distributed import ProcessGroup
from lm_stage.training.step import BatchLoss, Evaluation, Outcome, TrainStep, tensors_of
from lm_stage.training.zero import ZeroAdamW
from shared.device import setup_device
from shared.tokens.layout import TokenLayout

TOLERANCE = 1e-3  # relative; measured: losses and norms 5e-6, the ten-step trajectory 2.3e-4
ADAMW = AdamWHyperparameters(beta1=0.9, beta2=0.95, eps=1e-6, weight_decay=0.1)


@pytest.fixture(scope="module")
def expected(golden_lm: Path) -> dict[str, Any]:
    return json.loads((golden_lm / "expected.json").read_text())


@pytest.fixture(scope="module")
def sequences(golden_lm: Path, expected: dict[str, Any]) -> list[np.ndarray]:
    with np.load(golden_lm / "expected.npz") as file:
        return [np.concatenate((p, file[f"tokens_{i}"])).astype(np.int32) for i, p in enumerate(expected["prompts"])]


def batch_of(rows: list[list[tuple[np.ndarray, int]]], length: int) -> TrainingBatch:
    """Rows of (token ids, length of the prompt), supervised behind the prompt."""
    shape = len(rows), length
    batch = TrainingBatch(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int32),
        np.full(shape, PADDING, np.int32),
        (),
    )
    for row, samples in enumerate(rows):
        begin = 0
        for segment, (ids, prompt) in enumerate(samples):
            end = begin + len(ids)
            batch.token_ids_BL[row, begin:end] = ids
            batch.targets_BL[row, begin : end - 1] = ids[1:]
            batch.weights_BL[row, begin + prompt - 1 : end - 1] = 1
            batch.positions_BL[row, begin:end] = np.arange(len(ids))
            batch.segments_BL[row, begin:end] = segment
            begin = end
    return batch


@pytest.fixture(scope="module")
def make_step(golden_lm: Path) -> Callable[[int], TrainStep]:
    def make(length: int) -> TrainStep:
        setup_device("cpu")
        decoder = Decoder(DecoderConfig.from_directory(golden_lm))
        load_weights(decoder, golden_lm)
        return TrainStep(BatchLoss(decoder, length, length), AdamW(decoder.trainable_params(), ADAMW), 1.0)

    return make


@pytest.fixture
def batch(sequences: list[np.ndarray], expected: dict[str, Any]) -> TrainingBatch:
    """The first golden sequence, a row of 70 tokens."""
    return batch_of([[(sequences[0], len(expected["prompts"][0]))]], len(sequences[0]))


def test_losses_and_gradient_norms_are_golden(
    make_step: Callable[[int], TrainStep], expected: dict[str, Any], batch: TrainingBatch
) -> None:
    step = make_step(70)
    evaluation = Evaluation(BatchLoss(step.batch_loss.decoder, 70, 70))
    assert evaluation.mean_loss([batch]) == pytest.approx(expected["loss_after_prompt"], rel=TOLERANCE)
    layout = TokenLayout.from_mapping(expected["layout"])
    is_visual = (batch.targets_BL >= layout.first_visual_token) & (batch.targets_BL < layout.end_of_visual)
    visual = replace(batch, weights_BL=batch.weights_BL * is_visual)
    assert evaluation.mean_loss([visual]) == pytest.approx(expected["loss_vision_only"], rel=TOLERANCE)

    step._accumulate(ms.Tensor(1 / batch.total_weight, ms.float32), *tensors_of(batch, batch.target_bucket))
    norms = {
        name.removeprefix("decoder."): float(np.linalg.norm(gradient.asnumpy()))
        for name, gradient in zip(step.optimizer.names, step.optimizer.gradients)
    }
    assert norms == pytest.approx(expected["grad_norms"], rel=TOLERANCE)


def test_ten_steps_of_adamw_are_golden(
    make_step: Callable[[int], TrainStep], expected: dict[str, Any], batch: TrainingBatch
) -> None:
    step = make_step(70)
    results = [step.run([batch], number + 1, 1e-3) for number in range(10)]
    assert [result.loss for result in results] == pytest.approx(expected["train"]["losses"], rel=TOLERANCE)
    norms = expected["train"]["grad_norms_before_clip"]
    assert [result.gradient_norm for result in results] == pytest.approx(norms, rel=5 * TOLERANCE)


def test_packed_padded_and_accumulated_samples_give_what_each_gives_alone(
    make_step: Callable[[int], TrainStep], sequences: list[np.ndarray], expected: dict[str, Any]
) -> None:
    """One row of two samples, and a row of one with padding, against a batch a sample."""
    samples = list(zip(sequences, map(len, expected["prompts"])))
    length = len(sequences[0]) + len(sequences[1]) + 5
    packed, alone = make_step(length), make_step(length)
    together = packed.run([batch_of([[samples[0], samples[1]], [samples[2]]], length)], 1, 1e-3)
    one_by_one = alone.run([batch_of([[sample], []], length) for sample in samples], 1, 1e-3)
    assert together.loss == pytest.approx(one_by_one.loss, rel=1e-6)
    assert together.gradient_norm == pytest.approx(one_by_one.gradient_norm, rel=1e-5)


def test_chunks_of_the_loss_change_nothing(
    make_step: Callable[[int], TrainStep], monkeypatch: pytest.MonkeyPatch, batch: TrainingBatch
) -> None:
    whole = make_step(70).run([batch], 1, 1e-3)
    monkeypatch.setattr("lm_stage.training.step.LOSS_CHUNK", 16)
    cut = make_step(70)
    assert len(batch.supervised(batch.target_bucket)[0]) > 2 * cut.batch_loss.loss.chunk == 32
    result = cut.run([batch], 1, 1e-3)
    assert (result.loss, result.gradient_norm) == pytest.approx((whole.loss, whole.gradient_norm), rel=1e-5)


def test_logits_of_unsupervised_places_change_nothing(
    make_step: Callable[[int], TrainStep], monkeypatch: pytest.MonkeyPatch, batch: TrainingBatch
) -> None:
    batch.weights_BL[:, batch.weights_BL.size // 4 :] = 0
    batch.weights_BL[:, 3] = 0.5
    assert batch.target_bucket < 4
    few = make_step(70).run([batch], 1, 1e-3)
    monkeypatch.setattr(TrainingBatch, "target_bucket", 8)
    whole = make_step(70).run([batch], 1, 1e-3)
    assert (few.loss, few.gradient_norm) == pytest.approx((whole.loss, whole.gradient_norm), rel=1e-6)


def test_a_step_without_supervised_tokens_moves_nothing(
    make_step: Callable[[int], TrainStep], batch: TrainingBatch
) -> None:
    step = make_step(70)
    step.run([batch], 1, 1e-3)
    before = [p.asnumpy().copy() for p in step.optimizer.parameters_]
    assert step.run([replace(batch, weights_BL=0 * batch.weights_BL)], 2, 1e-3).outcome is Outcome.EMPTY
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip(step.optimizer.parameters_, before))


def test_a_loss_that_is_not_finite_moves_nothing(
    make_step: Callable[[int], TrainStep], expected: dict[str, Any], batch: TrainingBatch
) -> None:
    step = make_step(70)
    before = [p.asnumpy().copy() for p in step.optimizer.parameters_]
    poisoned = replace(batch, weights_BL=np.full_like(batch.weights_BL, np.inf))
    assert step.run([poisoned], 1, 1e-3).outcome is Outcome.BAD
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip(step.optimizer.parameters_, before))
    assert step.run([batch], 1, 1e-3).loss == pytest.approx(expected["loss_after_prompt"], rel=TOLERANCE)


def test_recomputed_layers_give_the_same_step(make_step: Callable[[int], TrainStep], batch: TrainingBatch) -> None:
    kept, recomputed = make_step(70), make_step(70)
    for block in recomputed.batch_loss.decoder.model.layers:
        block.recompute()
    results = [[step.run([batch], number + 1, 1e-3) for number in range(3)] for step in (kept, recomputed)]
    assert results[0] == results[1]


def zero_step(golden_lm: Path, length: int, dtype: Any, compute_dtype: Any = ms.float32) -> TrainStep:
    """A step whose float32 weights stand beside parameters of another type."""
    setup_device("cpu")
    decoder = Decoder(DecoderConfig.from_directory(golden_lm), dtype, compute_dtype=compute_dtype)
    load_weights(decoder, golden_lm)
    optimizer = ZeroAdamW(decoder.trainable_params(), ADAMW)
    tensors = read_weights(golden_lm)
    optimizer.load_weights(lambda name: tensors[name].float32())
    return TrainStep(BatchLoss(decoder, length, length), optimizer, 1.0)


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


def test_gradients_that_overflow_halve_the_loss_scale_and_move_nothing(
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
def test_slices_of_all_processes_make_the_tensor(size: int) -> None:
    """What no number of processes divides evenly is filled up, and cut again."""
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


def test_norms_do_not_decay_and_matrices_do(make_step: Callable[[int], TrainStep]) -> None:
    """With gradients of zero only the decay moves."""
    optimizer = make_step(70).optimizer
    before = {name: p.asnumpy().copy() for name, p in zip(optimizer.names, optimizer.parameters_)}
    optimizer.step(1, 0.01, 1.0)
    for name, p in zip(optimizer.names, optimizer.parameters_):
        kept = 1.0 if "norm" in name else 1 - 0.01 * 0.1
        np.testing.assert_allclose(p.asnumpy(), before[name] * kept, rtol=1e-6)
