"""The lengths that `emu3 plan` forecasts are those of the sequences that a run trains on."""

from __future__ import annotations

import numpy as np
import pytest

from lm_stage.data.options import LossWeights
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.text.prompting import PROMPTINGS
from lm_stage.text.renderer import CodeGrid
from tests.support.renderers import small_renderer


@pytest.mark.parametrize("name", PROMPTINGS)
def test_the_form_counts_all_tokens_but_those_of_text(name: str) -> None:
    prompting = PROMPTINGS[name]
    builder = SequenceBuilder(small_renderer(["a red apple"] * 3, 64, prompting=prompting), LossWeights())
    form, caption = prompting.text_to_image_form, "a red apple"
    assert form.template.replace("USER: ", f"USER: {caption}") in (prompting.text_to_image.question_text(caption), "")
    prompt_ids = builder.encode(prompting.text_to_image.question_text(caption))
    for height, width in ((2, 3), (10, 1)):
        sequence = builder.captioned(prompt_ids, CodeGrid.image(np.zeros((height, width), np.int32)))
        assert len(sequence.token_ids) == len(prompt_ids) + form.length(False, 1, height, width)


def test_a_video_has_the_same_control_tokens() -> None:
    prompting = PROMPTINGS["plain"]
    builder = SequenceBuilder(small_renderer(["a red apple"] * 3, 64, prompting=prompting), LossWeights())
    sequence = builder.captioned(np.zeros(0, np.int32), CodeGrid.video(np.zeros((3, 2, 4), np.int32)))
    assert len(sequence.token_ids) == prompting.text_to_image_form.length(True, 3, 2, 4)
