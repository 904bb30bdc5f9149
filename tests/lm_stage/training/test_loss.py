"""The chunked cross-entropy."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_stage.data.batch import TrainingBatch
from lm_stage.training.step import TrainStep
from tests.support.golden_training import train_step


def test_chunks_of_the_loss_change_nothing(
    golden_lm: Path, step: TrainStep, monkeypatch: pytest.MonkeyPatch, batch: TrainingBatch
) -> None:
    whole = step.run([batch], 1, 1e-3)
    monkeypatch.setattr("lm_stage.training.step.LOSS_CHUNK", 16)
    cut = train_step(golden_lm, 70)
    assert len(batch.supervised(batch.target_bucket)[0]) > 2 * cut.batch_loss.loss.chunk == 32
    result = cut.run([batch], 1, 1e-3)
    assert (result.loss, result.gradient_norm) == pytest.approx((whole.loss, whole.gradient_norm), rel=1e-5)
