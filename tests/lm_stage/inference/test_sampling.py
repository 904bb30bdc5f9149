"""Sampling against distributions worked out by hand; the noise is compared with published numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import check_finite, gumbel, noise_key, position_keys, sample
from shared.errors import JobStoppedError, UsageError

PROBABILITIES = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01])
LOGITS = np.log(PROBABILITIES).astype(np.float32)[None]
COUNT = 20_000
# The quantile 1 − 10⁻⁶ of χ² for 0 … 6 degrees of freedom: a correct sampler fails once in a million seeds.
CHI_SQUARED_LIMITS = (0.0, 23.9, 27.6, 30.7, 33.4, 35.9, 38.3)


def keys(count: int = COUNT, key: str = "key") -> np.ndarray:
    return position_keys(np.full(count, noise_key(7, key), np.uint64), np.arange(count))


def chi_squared(chosen: np.ndarray, expected: np.ndarray) -> float:
    counts = np.bincount(chosen, minlength=len(expected))
    assert not counts[expected == 0].any()
    possible = expected > 0
    expected_counts = expected[possible] * len(chosen)
    return float(((counts[possible] - expected_counts) ** 2 / expected_counts).sum())


@pytest.mark.parametrize(
    ("sampling", "kept", "power"),
    [
        (SamplingOptions(top_k=0), 7, 1),
        (SamplingOptions(top_k=100), 7, 1),
        (SamplingOptions(top_k=3), 3, 1),
        (SamplingOptions(top_k=0, top_p=0.6), 2, 1),
        (SamplingOptions(top_k=0, top_p=0.01), 1, 1),
        (SamplingOptions(top_k=4, top_p=0.8), 3, 1),
        (SamplingOptions(top_k=0, temperature=0.5), 7, 2),
        (SamplingOptions(top_k=5, temperature=2.0), 5, 0.5),
        (SamplingOptions(top_k=5, top_p=0.9, temperature=0.5), 3, 2),
    ],
)
def test_samples_follow_the_distribution(sampling: SamplingOptions, kept: int, power: float) -> None:
    """`kept` candidates are left, with their probabilities to the power of 1 / temperature."""
    expected = np.where(np.arange(7) < kept, PROBABILITIES**power, 0)
    order = np.random.default_rng(0).permutation(7)
    chosen = sample(LOGITS.repeat(COUNT, axis=0)[:, order], keys(), sampling)
    assert chi_squared(chosen, (expected / expected.sum())[order]) <= CHI_SQUARED_LIMITS[kept - 1]


def test_neighboring_positions_and_tokens_have_independent_noise() -> None:
    first, second = (sample(LOGITS.repeat(COUNT, axis=0), keys(COUNT + 1)[i : i + COUNT], SAMPLING) for i in (0, 1))
    pairs = np.outer(PROBABILITIES[:3], PROBABILITIES[:3]).reshape(-1)
    is_likely = (first < 3) & (second < 3)
    chosen = first[is_likely] * 3 + second[is_likely]
    assert chi_squared(chosen, pairs / pairs.sum()) < 50  # 1 − 4·10⁻⁸ of χ² for 8 degrees of freedom
    noise = gumbel(keys()[:, None], np.arange(3))
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 5 / COUNT**0.5
    np.testing.assert_allclose(noise.mean(), np.euler_gamma, atol=0.03)
    np.testing.assert_allclose(noise.var(), np.pi**2 / 6, atol=0.06)


SAMPLING = SamplingOptions(top_k=0)


def test_the_noise_comes_from_split_mix() -> None:
    """The first numbers of SplitMix64 with the seed 1234567, as published with its reference implementation."""
    published = np.array([6457827717110365317, 3203168211198807973, 9817491932198370423], np.uint64)
    np.testing.assert_array_equal(position_keys(np.full(3, 1234567, np.uint64), np.arange(3)), published)


@pytest.mark.parametrize("sampling", [SamplingOptions(), SamplingOptions(top_k=50), SamplingOptions(top_p=0.7)])
def test_a_sample_depends_on_its_own_logits_and_key_only(sampling: SamplingOptions) -> None:
    logits = np.random.default_rng(1).normal(size=(40, 3000)).astype(np.float32)
    chosen, order = sample(logits, keys(40), sampling), np.random.default_rng(2).permutation(40)
    np.testing.assert_array_equal(sample(logits[order], keys(40)[order], sampling), chosen[order])
    for one in (0, 17):
        assert sample(logits[one : one + 1], keys(40)[one : one + 1], sampling) == chosen[one]
    assert (sample(logits, keys(40, "other"), sampling) != chosen).mean() > 0.5


def test_equal_logits_are_candidates_together() -> None:
    """So the candidates do not depend on how they are found."""
    logits = np.array([[0.0, 1.0, 1.0, 1.0, -1.0]], np.float32).repeat(3000, axis=0)
    for sampling in (SamplingOptions(top_k=2), SamplingOptions(top_k=0, top_p=0.2)):
        assert set(sample(logits, keys(3000), sampling).tolist()) == {1, 2, 3}


def test_tokens_that_are_excluded_are_never_chosen() -> None:
    logits = np.array([[0.0, -np.inf, 0.0, -np.inf]], np.float32).repeat(1000, axis=0)
    for sampling in (SAMPLING, SamplingOptions(top_k=3), SamplingOptions(top_k=0, top_p=0.999)):
        assert set(sample(logits, keys(1000), sampling).tolist()) == {0, 2}


def test_greedy_takes_the_most_likely() -> None:
    np.testing.assert_array_equal(sample(LOGITS[:, ::-1], keys(1), replace(SAMPLING, greedy=True)), [6])


def test_extreme_logits_are_sampled() -> None:
    logits = np.array([[3e4, 0.0, -3e4]], np.float32)
    assert sample(logits, keys(1), SamplingOptions(temperature=1e-6))[0] == 0


def test_noise_is_keyed_to_seed_and_prompt() -> None:
    assert len({noise_key(1, "key"), noise_key(2, "key"), noise_key(1, "other"), noise_key(12, "key")}) == 4
    assert noise_key(1, "key") == noise_key(1, "key") < 2**64


def test_the_first_position_that_is_not_finite_is_named() -> None:
    logits = np.zeros((3, 4), np.float32)
    check_finite(logits, str)
    logits[1:, 2] = np.nan, np.inf
    with pytest.raises(JobStoppedError, match="place 1: logits are not finite"):
        check_finite(logits, lambda index: f"place {index}")


@pytest.mark.parametrize("bad", [{"temperature": 0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SamplingOptions(**bad)  # type: ignore[arg-type]
