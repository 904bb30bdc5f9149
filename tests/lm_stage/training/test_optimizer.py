"""AdamW against golden steps, and its weight decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from lm_stage.data.batch import TrainingBatch
from lm_stage.training.optimizer import AdamW
from lm_stage.training.step import TrainStep
from tests.support.golden_training import ADAMW, TOLERANCE, golden_decoder


def test_ten_steps_of_adamw_are_golden(step: TrainStep, expected: dict[str, Any], batch: TrainingBatch) -> None:
    results = [step.run([batch], number + 1, 1e-3) for number in range(10)]
    assert [result.loss for result in results] == pytest.approx(expected["train"]["losses"], rel=TOLERANCE)
    norms = expected["train"]["grad_norms_before_clip"]
    assert [result.gradient_norm for result in results] == pytest.approx(norms, rel=5 * TOLERANCE)


def test_its_state_is_not_created_on_the_host(golden_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = golden_decoder(golden_lm).trainable_params()
    monkeypatch.setattr(ms.Tensor, "asnumpy", lambda tensor: pytest.fail(f"{tensor.shape} was copied to the host"))
    assert len(AdamW(parameters, ADAMW).m) == len(parameters)


def test_norms_do_not_decay_and_matrices_do(step: TrainStep) -> None:
    """With zero gradients, only weight decay changes the weights."""
    optimizer = step.optimizer
    before = {name: p.asnumpy().copy() for name, p in zip(optimizer.names, optimizer.parameters_)}
    optimizer.step(1, 0.01, 1.0)
    for name, p in zip(optimizer.names, optimizer.parameters_):
        kept = 1.0 if "norm" in name else 1 - 0.01 * 0.1
        np.testing.assert_allclose(p.asnumpy(), before[name] * kept, rtol=1e-6)
