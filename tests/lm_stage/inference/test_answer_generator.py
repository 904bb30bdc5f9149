"""Answers of text and images: the same in any batch and after interruptions, guided in their codes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lm_stage import LanguageModel, SamplingOptions
from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.answer_generator import AnswerGenerator, AnswerRequest, AnswerSequence
from lm_stage.text.answer_grammar import AnswerGrammar, answer_parts
from lm_stage.text.prompting import EMU35
from shared.errors import JobStoppedError
from tests.support.answers import ChattyCache
from tests.support.golden_language import GoldenLanguageModel
from tests.support.renderers import small_renderer

RENDERER = small_renderer(["a red apple", "a green pear"] * 3, 64, prompting=EMU35)
GRAMMAR = AnswerGrammar.of(RENDERER)
LAYOUT = GRAMMAR.layout
CODES, TEXTS = SamplingOptions(top_k=20), SamplingOptions(top_k=30, top_p=0.95)


def generator(sequences: int, guidance_scale: float = 3.0) -> AnswerGenerator:
    rows = sequences if guidance_scale == 1 else 2 * sequences
    return AnswerGenerator(ChattyCache(rows, GRAMMAR), GRAMMAR, CODES, TEXTS, guidance_scale)


def request(number: int, **changes: Any) -> AnswerRequest:
    prompt = [LAYOUT.bos, *RENDERER.encode("a pear " * (number + 1)).tolist(), LAYOUT.bss]
    settings: dict[str, Any] = {"max_new_tokens": 160, "seed": 5, **changes}
    return AnswerRequest(f"k{number}", prompt, [LAYOUT.bos, LAYOUT.bss], **settings)


REQUESTS = [request(0), request(1, size=(2, 3)), request(2, repeats_size=False), request(3, max_new_tokens=30)]


def run(batch: AnswerGenerator, requests: Sequence[AnswerRequest]) -> dict[str, list[int]]:
    return {sequence.request.key: sequence.tokens for sequence in batch.run(requests)}


@pytest.fixture(scope="module")
def expected() -> dict[str, list[int]]:
    """The answers, one at a time."""
    return run(generator(1), REQUESTS)


def images_of(tokens: Sequence[int]) -> list[np.ndarray]:
    parts = answer_parts(tokens, GRAMMAR, RENDERER.text_tokenizer.decode)
    return [part.codes_HW for part in parts if part.codes_HW is not None]


def test_answers_have_text_and_images(expected: dict[str, list[int]]) -> None:
    assert all(len(images_of(tokens)) >= 1 for key, tokens in expected.items() if key != "k3"), "nothing was drawn"
    assert len(images_of(expected["k0"])) > 1
    assert {image.shape for image in images_of(expected["k1"])} == {(2, 3)}
    assert len({image.shape for image in images_of(expected["k0"])}) == 1
    assert len(expected["k3"]) <= 30


def test_answers_do_not_depend_on_the_batch(expected: dict[str, list[int]]) -> None:
    assert run(generator(3), REQUESTS) == expected
    assert run(generator(4), REQUESTS[::-1]) == expected


@pytest.mark.parametrize("is_replayed", [True, False])
def test_an_interrupted_answer_is_continued(expected: dict[str, list[int]], is_replayed: bool) -> None:
    """From every token; the stand-in does not round, so prefilling gives the same tokens too."""
    for begun in range(0, len(expected["k0"]), 3):
        continued = request(0, tokens=tuple(expected["k0"][:begun]), is_replayed=is_replayed)
        assert run(generator(1), [continued]) == {"k0": expected["k0"]}


def test_the_unconditional_row_takes_in_only_images() -> None:
    batch = generator(1)
    [sequence] = batch.run([request(0)])
    assert isinstance(batch.model, ChattyCache)
    negative, in_image = list(request(0).negative_ids or ()), False
    taken = []
    for token in sequence.tokens:
        in_image = in_image or token == LAYOUT.boi
        taken += [token] if in_image else []
        in_image = in_image and token != LAYOUT.eoi
    assert batch.model.tokens[1] == [*negative, *taken][: len(batch.model.tokens[1])]
    assert len(batch.model.tokens[1]) >= len(negative) + len(taken) - 1
    assert batch.model.tokens[0] == [*request(0).prompt_ids, *sequence.tokens[:-1]]


def test_guidance_applies_to_codes_only(expected: dict[str, list[int]]) -> None:
    strong, first_image = run(generator(1, 9.0), REQUESTS[:1])["k0"], expected["k0"].index(LAYOUT.boi)
    assert strong[:first_image] == expected["k0"][:first_image]
    assert strong != expected["k0"]


def test_without_guidance_an_answer_has_one_row() -> None:
    batch = generator(2, guidance_scale=1.0)
    assert batch.model.rows == 2
    together = run(batch, [replace(one, negative_ids=None) for one in REQUESTS])
    assert together == run(generator(1, guidance_scale=1.0), REQUESTS)


def test_sampling_is_that_of_the_task_not_of_single_images(golden_text: LanguageModel) -> None:
    """Upstream samples codes of interleaved answers from twice as many candidates as those of single images."""
    settings = GenerateOptions("p", "d", task="story").prompt_settings(golden_text.prompting)
    assert settings.sampling.top_k == 10_240
    for sampling in (settings.sampling, replace(settings.sampling, top_k=None)):
        generator = golden_text.answer_generator(1, 40, sampling, settings.text_sampling)
        assert (generator.sampling, generator.text_sampling) == (sampling, settings.text_sampling)


def test_logits_that_are_not_finite_stop_the_job_with_key_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = generator(1)
    batch.add(request(0))
    batch.step()
    broken = np.full((2, 1, LAYOUT.end_of_visual), np.nan, np.float32)
    monkeypatch.setattr(batch.model, "decode_step", lambda tokens, positions: broken)
    with pytest.raises(JobStoppedError, match="k0, token 1 of the answer"):
        batch.step()


def test_greedy_images_within_answers_are_those_of_upstream(
    emu35: GoldenLanguageModel, golden_text: LanguageModel
) -> None:
    """After BOI, an answer of the golden model has the golden tokens, through the whole vocabulary."""
    greedy, layout = SamplingOptions(greedy=True), golden_text.layout
    length = len(emu35.arrays["tokens_0"])
    size = emu35.height, emu35.width
    begin = len(golden_text.encode_text("5*7")) + 2  # BOI, the size and IMG
    requests = [
        AnswerRequest(str(number), ids[:-begin], emu35.negative[:-begin], begin + length, 0, size, tokens=(layout.boi,))
        for number, ids in enumerate(emu35.prompts)
    ]
    longest = max(one.length for one in requests)
    answers = golden_text.answer_generator(2, longest, greedy, greedy, emu35.guidance_scale)
    found: dict[str, AnswerSequence] = {one.request.key: one for one in answers.run(requests)}
    for number, ids in enumerate(emu35.prompts):
        tokens = emu35.arrays[f"tokens_{number}"].tolist()
        assert found[str(number)].tokens == [*ids[-begin:], *tokens]
