"""Texts are encoded once, and only if they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm_stage.data.sequences import SequenceBuilder
from tests.support.sft_samples import (
    extra_row,
    opened,
    small_builder,
    write_dataset,
    write_lines,
)


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    return small_builder()


def test_questions_are_encoded_only_for_tasks_that_ask_them(tmp_path: Path, builder: SequenceBuilder) -> None:
    encoded: list[str] = []

    class Listening(SequenceBuilder):
        def encode(self, text: str) -> np.ndarray:
            encoded.append(text)
            return super().encode(text)

    listening = Listening(builder.renderer, builder.loss)
    encoded.clear()
    opened(write_dataset(tmp_path / "codes", [[extra_row(0, question="who?", answer="a pear")]]), listening, "text")
    opened(write_lines(tmp_path / "t.jsonl", {"text": "a red apple"}), listening, "text")
    assert encoded == ["a pear", "a red apple"]
