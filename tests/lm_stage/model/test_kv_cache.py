"""Cached decoding against the forward over the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

from lm_stage.model.backend import CachedModel
from tests.support.golden_language import GoldenLanguageModel

TOLERANCE = 1e-3  # of logits; measured 2.4e-5


def cached(golden: GoldenLanguageModel, rows: int, length: int) -> CachedModel:
    layout = golden.model.layout
    return golden.model.backend.cached(rows, length, layout.first_visual_token, layout.end_of_visual)


def visual_logits(golden: GoldenLanguageModel, ids: np.ndarray) -> np.ndarray:
    layout = golden.model.layout
    return golden.model.logits(ids)[:, layout.first_visual_token : layout.end_of_visual]


def test_decode_steps_equal_the_forward_over_the_whole_sequence(golden: GoldenLanguageModel) -> None:
    ids = np.random.default_rng(0).integers(0, golden.model.config.vocab_size, 90)
    whole, cache = visual_logits(golden, ids), cached(golden, 2, 100)
    cache.prefill(1, list(ids[:70]))
    for position in range(70, 90):
        step = cache.decode_step(np.array([0, ids[position]]), np.array([0, position]))
        np.testing.assert_allclose(step[1], whole[position], atol=TOLERANCE, rtol=0)


def test_a_long_prefill_runs_in_chunks(golden: GoldenLanguageModel) -> None:
    ids = np.random.default_rng(1).integers(0, golden.model.config.vocab_size, 700)
    cache = cached(golden, 1, 701)
    cache.prefill(0, list(ids[:-1]))
    step = cache.decode_step(ids[-1:], np.array([699]))
    np.testing.assert_allclose(step[0], visual_logits(golden, ids)[-1], atol=TOLERANCE, rtol=0)


def test_a_prefill_discards_the_previous_sequence_of_a_row(golden: GoldenLanguageModel) -> None:
    random = np.random.default_rng(2)
    cache = cached(golden, 1, 100)
    cache.prefill(0, random.integers(0, 300, 99).tolist())
    ids = random.integers(0, 300, 12)
    cache.prefill(0, ids[:-1].tolist())
    step = cache.decode_step(ids[-1:], np.array([11]))
    np.testing.assert_allclose(step[0], visual_logits(golden, ids)[-1], atol=TOLERANCE, rtol=0)


def test_a_sequence_longer_than_the_cache_is_refused(golden: GoldenLanguageModel) -> None:
    with pytest.raises(ValueError, match="row 0: 200 tokens do not fit"):
        cached(golden, 1, 100).prefill(0, [0] * 200)
