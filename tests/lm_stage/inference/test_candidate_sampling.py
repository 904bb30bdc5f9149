"""What is sampled from the tokens that a device selects is what is sampled from all logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lm_stage.inference import candidate_sampling
from lm_stage.inference.candidate_sampling import SPARE, count_to_select, sample_candidates
from lm_stage.inference.options import SamplingOptions
from lm_stage.inference.sampling import noise_key, position_keys, sample
from lm_stage.inference.visual_generator import VisualGenerator
from lm_stage.inference.visual_sequence import VisualRequest
from lm_stage.model.candidate_step import Candidates
from lm_stage.model.kernels import ascend_candidates, cpu
from shared.errors import JobStoppedError
from shared.tokens.layout import TokenLayout
from tests.support.ascend_operators import substitute
from tests.support.golden_language import GoldenLanguageModel
from tests.support.step_by_step import StandInCache

TOKENS = 3000
KEYS = position_keys(np.full(60, noise_key(7, "key"), np.uint64), np.arange(60))
LAYOUT = TokenLayout(
    pad=10, bos=11, eos=12, img=13, boi=14, eoi=15, eol=16, eof=17, first_visual_token=18, codebook_size=40
)
NARROW = SamplingOptions(temperature=0.7, top_k=6, top_p=0.95)


def selected(logits_BK: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest logits in descending order and their tokens, equal ones in random order."""
    chance = np.random.default_rng(3).random(logits_BK.shape)
    tokens_Bk = np.lexsort((chance, -logits_BK), axis=1)[:, :count].astype(np.int32)
    return np.take_along_axis(logits_BK, tokens_Bk, 1), tokens_Bk


@pytest.mark.parametrize("rounding", [2.0**-20, 2.0**-4], ids=["distinct", "ties"])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingOptions(top_k=50),
        SamplingOptions(top_k=2000),
        SamplingOptions(top_k=50, top_p=0.7),
        SamplingOptions(top_k=300, top_p=0.999, temperature=2.0),
        SamplingOptions(top_k=1),
        SamplingOptions(greedy=True),
    ],
)
def test_candidates_give_the_tokens_of_all_logits(sampling: SamplingOptions, rounding: float) -> None:
    logits = (np.random.default_rng(1).normal(scale=3, size=(60, TOKENS)) / rounding).round().astype(np.float32)
    logits *= np.float32(rounding)
    count = count_to_select(sampling, TOKENS)
    assert count
    found = sample_candidates(*selected(logits, count), KEYS, sampling)
    np.testing.assert_array_equal(found, sample(logits, KEYS, sampling))


@pytest.mark.parametrize("sampling", [SamplingOptions(top_k=50), SamplingOptions(greedy=True)])
def test_candidates_of_which_some_may_be_missing_are_refused(sampling: SamplingOptions) -> None:
    logits = np.zeros((60, TOKENS), np.float32)
    assert sample_candidates(*selected(logits, 50 + SPARE), KEYS, sampling) is None
    logits[:, 40:] = -1
    assert (sample_candidates(*selected(logits, 50 + SPARE), KEYS, sampling) is None) != sampling.greedy


def test_the_host_needs_all_logits_without_a_limit_or_with_few_tokens() -> None:
    assert count_to_select(SamplingOptions(top_k=0), 32768) is None
    assert count_to_select(SamplingOptions(top_k=2048), 2048) is None
    assert count_to_select(SamplingOptions(top_k=2048), 32768) == 2048 + SPARE
    assert count_to_select(SamplingOptions(greedy=True), 32768) == 1 + SPARE


class Rounded(StandInCache):
    """Logits of which many are equal, as in half precision."""

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        return (super().decode_step(token_ids_RL, positions_RL) * 4).round() / 4


class Selecting(Rounded):
    """Selects as a device does, in random order where logits are equal, and notes when all logits are copied."""

    copies = 0

    def candidate_step(self, guidance_scale: float, count: int) -> Callable[..., Candidates]:
        def step(token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> Candidates:
            logits_RLK = self.decode_step(token_ids_RL, positions_RL)
            guided = logits_RLK
            if guidance_scale != 1:
                cond, uncond = np.split(logits_RLK, 2)
                guided = uncond + guidance_scale * (cond - uncond)
            logits_PK = guided.reshape(-1, self.outputs)
            return Candidates(
                *selected(logits_PK, count), np.isfinite(logits_PK).all(axis=1), lambda: self.copy(logits_RLK)
            )

        return step

    def copy(self, logits_RLK: np.ndarray) -> np.ndarray:
        type(self).copies += 1
        return logits_RLK


def generated(model: type[StandInCache], guidance: float, window: int, sampling: SamplingOptions) -> list[list[int]]:
    """Return the codes of five images, three at a time."""
    requests = [VisualRequest(str(i), [*range(i), 13], [1, 13], 3, 4, seed=i) for i in range(5)]
    rows = 3 if guidance == 1 else 6
    generator = VisualGenerator(model(rows, LAYOUT.codebook_size), LAYOUT, sampling, guidance, window)
    return [sequence.codes for sequence in sorted(generator.run(requests), key=lambda one: one.request.key)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("window", [1, 7])
@pytest.mark.parametrize("sampling", [NARROW, SamplingOptions(greedy=True)], ids=["sampled", "greedy"])
def test_generators_give_the_same_codes(
    guidance: float, window: int, sampling: SamplingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many spare tokens, and with so few that all logits are sometimes copied."""
    expected = generated(Rounded, guidance, window, sampling)
    for spare in (20, 1):
        monkeypatch.setattr(candidate_sampling, "SPARE", spare)
        monkeypatch.setattr(Selecting, "copies", 0)
        assert generated(Selecting, guidance, window, sampling) == expected
        assert (Selecting.copies > 0) == (spare == 1)


def test_logits_that_are_not_finite_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_sampling, "SPARE", 1)
    monkeypatch.setattr(Rounded, "decode_step", lambda *_: np.full((6, 1, LAYOUT.codebook_size), np.inf, np.float32))
    with pytest.raises(JobStoppedError, match="0, offset 0 of the image: logits are not finite"):
        generated(Selecting, 1.0, 1, NARROW)


@pytest.mark.parametrize(
    ("guidance", "window", "sampling"),
    [
        (3.0, 1, SamplingOptions(top_k=50)),
        (3.0, 7, SamplingOptions(top_k=30, top_p=0.9, temperature=0.8)),
        (1.0, 1, SamplingOptions(greedy=True)),
    ],
)
def test_images_of_the_model_are_the_same(
    guidance: float,
    window: int,
    sampling: SamplingOptions,
    golden: GoldenLanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Ascend's selection in place of the CPU's kernel, its operators replaced by plain functions."""
    expected = golden.generate(golden.prompts, sampling, guidance, window=window, seed=3)
    substitute(monkeypatch)
    monkeypatch.setattr(cpu, "Candidates", ascend_candidates.Candidates)
    monkeypatch.setattr(candidate_sampling, "SPARE", 8)
    counts = []
    monkeypatch.setattr(
        "lm_stage.inference.visual_generator.sample_candidates",
        lambda logits, *others: counts.append(logits.shape[1]) or sample_candidates(logits, *others),
    )
    np.testing.assert_array_equal(golden.generate(golden.prompts, sampling, guidance, window=window, seed=3), expected)
    assert set(counts) == {count_to_select(sampling, golden.model.layout.codebook_size)}
