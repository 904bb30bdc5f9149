"""The learning rate rises linearly, then falls along a cosine to its minimum."""

from __future__ import annotations

import pytest

from shared.training.schedule import CosineSchedule


def test_warmup_then_decay() -> None:
    schedule = CosineSchedule(peak=1.0, min_ratio=0.1, warmup=4, decay_from=4, decay_to=103)
    rates = [schedule.learning_rate(step) for step in range(104)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[-1] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert schedule.learning_rate(200) == rates[-1], "stays at the minimum"


def test_one_step_without_warmup_has_the_full_rate() -> None:
    assert CosineSchedule(1.0, 0.1, 0, 0, 0).learning_rate(0) == 1.0


def test_a_decay_that_begins_with_the_warmup_multiplies_it() -> None:
    schedule = CosineSchedule(peak=2.0, min_ratio=0.0, warmup=2, decay_from=0, decay_to=4)
    assert [schedule.learning_rate(step) for step in range(5)] == pytest.approx([1.0, 1.70710678, 1.0, 0.29289322, 0])
