"""Sampling against distributions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import sample, uniforms
from shared.errors import UsageError

LOGITS = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))


def frequencies(sampling: SamplingOptions, count: int = 4000) -> np.ndarray:
    numbers = (np.arange(count) + 0.5) / count
    chosen = [sample(LOGITS, np.array([number]), sampling)[0] for number in numbers]
    return np.bincount(chosen, minlength=4) / count


def test_samples_follow_the_distribution() -> None:
    np.testing.assert_allclose(frequencies(SamplingOptions(top_k=0)), [0.5, 0.3, 0.15, 0.05], atol=1e-3)


def test_top_k_keeps_the_most_likely() -> None:
    np.testing.assert_allclose(frequencies(SamplingOptions(top_k=2)), [0.625, 0.375, 0, 0], atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    np.testing.assert_allclose(frequencies(SamplingOptions(top_k=0, top_p=0.6)), [0.625, 0.375, 0, 0], atol=1e-3)
    np.testing.assert_allclose(frequencies(SamplingOptions(top_k=0, top_p=0.01)), [1, 0, 0, 0])


def test_temperature_sharpens() -> None:
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    np.testing.assert_allclose(
        frequencies(SamplingOptions(temperature=0.5, top_k=0)), squared / squared.sum(), atol=1e-3
    )


def test_greedy_takes_the_most_likely() -> None:
    assert sample(LOGITS[:, ::-1], np.array([0.99]), SamplingOptions(greedy=True))[0] == 3


def test_random_numbers_are_keyed_to_seed_and_prompt() -> None:
    numbers = uniforms(1, "key", 1000)
    np.testing.assert_array_equal(numbers[:10], uniforms(1, "key", 10))
    assert not np.array_equal(numbers, uniforms(2, "key", 1000))
    assert not np.array_equal(numbers, uniforms(1, "other", 1000))
    assert abs(numbers.mean() - 0.5) < 0.05
    assert 0 <= numbers.min() < numbers.max() < 1


@pytest.mark.parametrize("bad", [{"temperature": 0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SamplingOptions(**bad)  # type: ignore[arg-type]
