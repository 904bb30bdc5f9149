"""Answers end with EOS or at their limit, contain only text, and do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lm_stage import SamplingOptions
from lm_stage.inference.text_generator import TextGenerator, TextRequest
from shared.errors import JobStoppedError
from shared.tokens.layout import TokenLayout

LAYOUT = TokenLayout(
    pad=10, bos=11, eos=12, img=13, boi=14, eoi=15, eol=16, eof=17, first_visual_token=18, codebook_size=4
)
GREEDY = SamplingOptions(greedy=True)


class CountingModel:
    """Prefers the control tokens, and of all others the one after the last token; after 9 comes EOS."""

    def __init__(self, rows: int):
        self.rows = rows
        self.prefilled: dict[int, list[int]] = {}

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        self.prefilled[row] = list(token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        logits = np.zeros((self.rows, 1, LAYOUT.first_visual_token), np.float32)
        logits[..., [10, 11, *range(13, 18)]] = 9
        for row, token in enumerate(token_ids_RL[:, 0]):
            logits[row, 0, LAYOUT.eos if token == 9 else token + 1] = 5
        return logits


def test_answers_end_with_eos_or_at_their_limit() -> None:
    model = CountingModel(rows=2)
    requests = [
        TextRequest(key, [11, first], limit, 0) for key, first, limit in (("a", 6, 9), ("b", 0, 3), ("c", 8, 2))
    ]
    answers = {sequence.request.key: sequence for sequence in TextGenerator(model, LAYOUT, GREEDY).run(requests)}
    assert {key: (one.text_ids(), one.finish_reason) for key, one in answers.items()} == {
        "a": ([7, 8, 9], "eos"),
        "b": ([1, 2, 3], "length"),
        "c": ([9], "eos"),
    }
    assert model.prefilled == {0: [11], 1: [11]}


def test_the_token_that_begins_the_end_of_an_answer_ends_it() -> None:
    """Of ESS and EOS, which end answers of Emu3.5, the first one suffices; without that role, ESS is masked."""
    with_ess = replace(LAYOUT, ess=10, pad=9)
    for end, answer in (("ess", [7, 8]), ("eos", [7, 8, 0, 1])):
        model = EndingModel(rows=1, end=10, after=8)
        generator = TextGenerator(model, with_ess, GREEDY, end)
        [sequence] = generator.run([TextRequest("a", [11, 6], 4, 0)])
        assert (sequence.text_ids(), sequence.finish_reason) == (answer, "eos" if end == "ess" else "length")


class EndingModel(CountingModel):
    """Prefers the token after the last one, and one token after another; the second choice is 0."""

    def __init__(self, rows: int, end: int, after: int):
        super().__init__(rows)
        self.end, self.after = end, after

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        logits = np.zeros((self.rows, 1, LAYOUT.first_visual_token), np.float32)
        for row, token in enumerate(token_ids_RL[:, 0]):
            logits[row, 0, 0] = 1
            logits[row, 0, self.end if token == self.after else token + 1] = 5
        return logits


def test_a_full_batch_accepts_no_request_until_a_sequence_ends() -> None:
    generator = TextGenerator(CountingModel(rows=1), LAYOUT, GREEDY)
    generator.add(TextRequest("a", [11, 8], 9, 0))
    assert generator.is_full
    assert generator.step() == []
    assert [sequence.request.key for sequence in generator.step()] == ["a"]
    assert not generator.is_full
    assert generator.running == []


def test_logits_that_are_not_finite_stop_the_job_with_key_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CountingModel(rows=1)
    generator = TextGenerator(model, LAYOUT, GREEDY)
    generator.add(TextRequest("the key", [11, 0], 9, 0))
    generator.step()
    monkeypatch.setattr(model, "decode_step", lambda *_: np.full((1, 1, LAYOUT.first_visual_token), np.nan, np.float32))
    with pytest.raises(JobStoppedError, match=r"the key.*token 1 of the answer"):
        generator.step()
