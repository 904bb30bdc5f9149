"""Prompts as token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.generate.planner import planned_prompt
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from shared.codec import EMU3
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.tokens.grid_formats import IMAGE, ROWS
from tests.support import handmade
from tests.support.prompts import CLIP, plan_prompts


def video(frames: int = 3, **changes: Any) -> Prompt:
    return replace(Prompt("v", "p#1", "xx", "", 2, 3, frames=frames), **changes)


def test_a_suffix_and_a_negative_prompt_are_rendered(sequences: SequenceRenderer) -> None:
    prompt, renderer = Prompt("a", "p", "a red", "a pear", 2, 3), PromptRenderer(sequences, " apple", True, None)
    assert renderer.text(prompt) == "a red apple"
    assert renderer.prompt_ids(prompt) == sequences.generation_prompt(["a red apple"], IMAGE, 1, 2, 3).tolist()
    assert renderer.negative_ids(prompt) == sequences.generation_prompt(["a pear"], IMAGE, 1, 2, 3).tolist()


def test_images_of_prompts_come_from_their_dataset(coded_images: Dataset, sequences: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "like <image> but <image>", "no", 2, 3, images=("three", "one"))
    index = KeyReader(coded_images)
    renderer = PromptRenderer(sequences, "", True, index)
    parts = ["like ", CodeGrid.image(index.image("three")), " but ", CodeGrid.image(index.image("one"))]
    assert renderer.prompt_ids(prompt) == sequences.generation_prompt(parts, IMAGE, 1, 2, 3).tolist()
    [unit] = plan_prompts([prompt], renderer, 400, 1)
    assert planned_prompt(unit, unit.inputs[0], EMU3) == prompt


def test_images_of_an_empty_dataset_are_missing(tmp_path: Path, sequences: SequenceRenderer) -> None:
    renderer = PromptRenderer(sequences, "", True, KeyReader(handmade.make(tmp_path / "empty", [])))
    prompts = [Prompt("a", "p", "like <image>", "", 2, 3, images=("one",)), video(video="clip")]
    [unit] = plan_prompts(prompts, renderer, 400, 8)
    assert [item.refused_reason for item in unit.inputs] == ["missing_image", "missing_image"]


def test_a_video_is_rendered_in_its_format(sequences: SequenceRenderer) -> None:
    with_rows = SequenceRenderer(sequences.text_tokenizer, sequences.layout, ROWS)
    for rendering in (sequences, with_rows):
        renderer = PromptRenderer(rendering, "", True, None)
        video_format = rendering.video_format
        assert renderer.prompt_ids(video()) == rendering.generation_prompt(["xx"], video_format, 3, 2, 3).tolist()
        assert renderer.negative_ids(video()) == rendering.generation_prompt([], video_format, 3, 2, 3).tolist()
        assert renderer.grid_format(video()) == video_format
        assert renderer.prefix_codes(video()).shape == (0, 2, 3)


def test_a_video_has_size_and_fps_of_the_clip_it_continues(clips: Dataset, sequences: SequenceRenderer) -> None:
    renderer = PromptRenderer(sequences, "", True, KeyReader(clips))
    continued = video(video="clip", height=0, width=0)
    prompts = [continued, video(video="clip", key="w", fps=5.0), video(video="still", key="s", height=0, width=0)]
    [unit] = plan_prompts(prompts, renderer, 400, 8)
    assert unit.size == (3, 16, 24)
    planned = [planned_prompt(unit, item, EMU3) for item in unit.inputs]
    assert [prompt.fps for prompt in planned] == [24.0, 5.0, 8.0]
    assert [prompt.video for prompt in planned] == ["clip", "clip", "still"]
    np.testing.assert_array_equal(renderer.prefix_codes(planned[0]), CLIP)
    np.testing.assert_array_equal(renderer.prefix_codes(planned[2]), CLIP[:1])
