"""A trained vocabulary: the same on every run, with the ids of control and visual tokens after the text ids."""

from __future__ import annotations

from lm_stage.text.training import train_text_tokenizer


def test_training_is_deterministic_and_visual_tokens_come_last() -> None:
    first, second = (train_text_tokenizer(["one two three"] * 3, 280, 32) for _ in range(2))
    assert first == second
    assert first.layout.end_of_visual == first.vocab_size
    assert first.layout.codebook_size == 32
