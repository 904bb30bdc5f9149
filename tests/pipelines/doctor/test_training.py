"""Judging losses: substituted results."""

from __future__ import annotations

import pytest

from pipelines.doctor import training
from pipelines.doctor.check import Setting, Verdict
from pipelines.doctor.expected import expected


@pytest.mark.parametrize(("factor", "verdict"), [(1.0005, Verdict.PASSED), (1.01, Verdict.FAILED)])
def test_losses_are_compared(monkeypatch: pytest.MonkeyPatch, factor: float, verdict: Verdict) -> None:
    monkeypatch.setattr(training, "losses", lambda *settings: expected()["losses"] * factor)
    assert training.check_training(Setting("cpu"), "float32").verdict is verdict


def test_the_expected_losses_fall() -> None:
    losses = expected()["losses"]
    assert len(losses) == 10
    assert losses[-1] < 0.9 * losses[0]


def test_the_batch_is_packed() -> None:
    batch = training.random_batch(100)
    assert batch.useful_tokens == 2 * sum(training.SAMPLE_LENGTHS)
    assert batch.segments_BL.max() == 1
