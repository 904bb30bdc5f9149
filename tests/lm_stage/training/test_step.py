"""The training step against golden data; accumulation, padding and packing do not change it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from lm_stage.data.batch import TrainingBatch
from lm_stage.training.step import BatchLoss, Evaluation, Outcome, TrainStep
from shared.tokens.layout import TokenLayout
from tests.support.golden_language import GoldenLanguageModel
from tests.support.golden_training import (
    TOLERANCE,
    batch_of,
    first_sequence,
    loss_and_gradients,
    restart,
    train_step,
)
from tests.support.stand_in_training import one_bucket


def test_losses_and_gradient_norms_are_golden(step: TrainStep, expected: dict[str, Any], batch: TrainingBatch) -> None:
    evaluation = Evaluation(BatchLoss(step.batch_loss.decoder, 70, 70))
    assert evaluation.mean_loss([batch]) == pytest.approx(expected["loss_after_prompt"], rel=TOLERANCE)
    layout = TokenLayout.from_mapping(expected["layout"])
    is_visual = (batch.targets_BL >= layout.first_visual_token) & (batch.targets_BL < layout.end_of_visual)
    visual = replace(batch, weights_BL=batch.weights_BL * is_visual)
    assert evaluation.mean_loss([visual]) == pytest.approx(expected["loss_vision_only"], rel=TOLERANCE)

    step._accumulate(
        ms.Tensor(1 / batch.total_weight, ms.float32), *step.batch_loss.tensors_of(batch, batch.target_bucket)
    )
    norms = {
        name.removeprefix("decoder."): float(np.linalg.norm(gradient.asnumpy()))
        for name, gradient in zip(step.optimizer.names, step.optimizer.gradients)
    }
    assert norms == pytest.approx(expected["grad_norms"], rel=TOLERANCE)


def test_losses_and_gradients_with_norms_of_queries_and_keys_are_golden(
    golden_emu35: Path, emu35: GoldenLanguageModel, emu35_training: dict[str, Any]
) -> None:
    batch = first_sequence(emu35)
    step = train_step(golden_emu35, batch.token_ids_BL.size)
    loss, gradients = loss_and_gradients(step, batch)
    assert loss == pytest.approx(emu35_training["loss_after_prompt"], rel=TOLERANCE)
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in gradients.items()}
    assert norms == pytest.approx(emu35_training["grad_norms"], rel=TOLERANCE)
    losses = [step.run([batch], number + 1, 1e-3).loss for number in range(10)]
    assert losses == pytest.approx(emu35_training["train"]["losses"], rel=TOLERANCE)


def test_gradients_are_those_of_qwen3(golden_emu35: Path, emu35: GoldenLanguageModel) -> None:
    torch = pytest.importorskip("torch", reason="transformers computes with torch, which the tests do not require")
    import transformers

    batch = first_sequence(emu35)
    model = transformers.Qwen3ForCausalLM.from_pretrained(golden_emu35, attn_implementation="eager")
    token_ids_BL = torch.tensor(batch.token_ids_BL, dtype=torch.int64)
    supervised = torch.arange(token_ids_BL.shape[1]) >= len(emu35.prompts[0])
    logits_LV = model(token_ids_BL).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits_LV[supervised[1:]], token_ids_BL[0, supervised]).backward()
    _, gradients = loss_and_gradients(train_step(golden_emu35, batch.token_ids_BL.size), batch)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(gradients.pop(name), parameter.grad.numpy(), atol=1e-5, rtol=1e-3, err_msg=name)
    assert not gradients


def test_packed_padded_and_accumulated_samples_give_what_each_gives_alone(
    golden_lm: Path, sequences: list[np.ndarray], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of two samples, and a row of one with padding, against a batch a sample."""
    one_bucket(monkeypatch)
    samples = list(zip(sequences, map(len, expected["prompts"])))
    length = len(sequences[0]) + len(sequences[1]) + 5
    step = train_step(golden_lm, length)
    together = step.run([batch_of([[samples[0], samples[1]], [samples[2]]], length)], 1, 1e-3)
    restart(step, golden_lm)
    one_by_one = step.run([batch_of([[sample], []], length) for sample in samples], 1, 1e-3)
    assert together.loss == pytest.approx(one_by_one.loss, rel=1e-6)
    assert together.gradient_norm == pytest.approx(one_by_one.gradient_norm, rel=1e-5)


def test_logits_of_unsupervised_positions_change_nothing(
    golden_lm: Path, step: TrainStep, monkeypatch: pytest.MonkeyPatch, batch: TrainingBatch
) -> None:
    batch.weights_BL[:, batch.weights_BL.size // 4 :] = 0
    batch.weights_BL[:, 3] = 0.5
    assert batch.target_bucket < 4
    few = step.run([batch], 1, 1e-3)
    monkeypatch.setattr(TrainingBatch, "target_bucket", 8)
    whole = restart(step, golden_lm).run([batch], 1, 1e-3)
    assert (few.loss, few.gradient_norm) == pytest.approx((whole.loss, whole.gradient_norm), rel=1e-6)


def test_a_step_without_supervised_tokens_changes_nothing(step: TrainStep, batch: TrainingBatch) -> None:
    step.run([batch], 1, 1e-3)
    before = [p.asnumpy().copy() for p in step.optimizer.parameters_]
    assert step.run([replace(batch, weights_BL=0 * batch.weights_BL)], 2, 1e-3).outcome is Outcome.EMPTY
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip(step.optimizer.parameters_, before))


def test_a_loss_that_is_not_finite_changes_nothing(
    step: TrainStep, expected: dict[str, Any], batch: TrainingBatch
) -> None:
    before = [p.asnumpy().copy() for p in step.optimizer.parameters_]
    poisoned = replace(batch, weights_BL=np.full_like(batch.weights_BL, np.inf))
    assert step.run([poisoned], 1, 1e-3).outcome is Outcome.BAD
    assert all(np.array_equal(p.asnumpy(), old) for p, old in zip(step.optimizer.parameters_, before))
    assert step.run([batch], 1, 1e-3).loss == pytest.approx(expected["loss_after_prompt"], rel=TOLERANCE)


def test_recomputed_layers_give_the_same_step(golden_lm: Path, step: TrainStep, batch: TrainingBatch) -> None:
    recomputed = train_step(golden_lm, 70)
    for block in recomputed.batch_loss.decoder.model.layers:
        block.recompute()
    results = [[one.run([batch], number + 1, 1e-3) for number in range(3)] for one in (step, recomputed)]
    assert results[0] == results[1]
