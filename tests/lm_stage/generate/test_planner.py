"""From prompts to units: sizes, tokens and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.generate.planner import longest_prompt, max_body_length, planned_prompt, progress_counts
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.text.renderer import SequenceRenderer
from shared.codec import EMU3
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import KeyReader
from shared.tokens.grid_formats import ROWS
from tests.support import handmade
from tests.support.prompts import plan_prompts


def plan(
    prompts: Sequence[Prompt], sequences: SequenceRenderer, positions: int = 400, unit_rows: int = 64
) -> list[Unit]:
    return plan_prompts(prompts, PromptRenderer(sequences, "", True, None), positions, unit_rows)


def refusal_of(units: Sequence[Unit]) -> tuple[str | None, str]:
    """Return reason and detail from a plan that contains one refused prompt and no other."""
    assert [(unit.height, unit.width, len(unit.inputs)) for unit in units] == [(0, 0, 1)]
    return units[0].inputs[0].refused_reason, units[0].inputs[0].refused_detail or ""


def video(frames: int = 3, **changes: Any) -> Prompt:
    return replace(Prompt("v", "p#1", "xx", "", 2, 3, frames=frames), **changes)


@given(
    sizes=st.lists(st.sampled_from([(1, 2), (2, 1), (3, 3), (1, 4), None]), min_size=1, max_size=12),
    unit_rows=st.integers(1, 5),
)
def test_units_hold_every_prompt_once_by_size(
    sequences: SequenceRenderer, sizes: list[tuple[int, int] | None], unit_rows: int
) -> None:
    prompts = [
        Prompt(f"k{index}", "p", f"text {index}", "no", *size, seed=index)
        if size
        else Prompt(f"k{index}", "p", "", refusal=("bad_entry", f"detail {index}"))
        for index, size in enumerate(sizes)
    ]
    units = plan(prompts, sequences, unit_rows=unit_rows)
    assert [unit.unit for unit in units] == list(range(len(units)))
    areas = [unit.height * unit.width for unit in units]
    assert areas == sorted(areas, reverse=True), "largest first, what was refused last"
    assert sorted(item.src_index for unit in units for item in unit.inputs) == list(range(len(prompts)))
    for size in set(sizes):
        pixels = (size[0] * 8, size[1] * 8) if size else (0, 0)
        chunks = [unit.inputs for unit in units if (unit.height, unit.width) == pixels]
        assert [item.src_index for chunk in chunks for item in chunk] == [i for i, s in enumerate(sizes) if s == size]
        assert all(len(chunk) == unit_rows for chunk in chunks[:-1])
        assert 1 <= len(chunks[-1]) <= unit_rows
    for unit in units:
        for item in unit.inputs:
            prompt = prompts[item.src_index]
            assert (item.refused_reason and (item.refused_reason, item.refused_detail)) == prompt.refusal
            assert planned_prompt(unit, item, EMU3) == replace(prompt, refusal=None)


def test_longest_prompt_and_tokens_of_a_plan(sequences: SequenceRenderer, tmp_path: Path) -> None:
    prompts = [
        Prompt("a", "p", "xx", "", 2, 3),
        Prompt("b", "p", "xxxx", "", 2, 3),
        Prompt("c", "p", "x", "xxxxxx", 2, 3),
        Prompt("d", "p", "x" * 30, "", 1, 1),
        Prompt("e", "p", "", refusal=("bad_entry", "")),
    ]
    units = plan(prompts, sequences, unit_rows=2)
    assert [(unit.height, unit.width, len(unit.inputs)) for unit in units] == [
        (16, 24, 2), (16, 24, 1), (8, 8, 1), (0, 0, 1)
    ]  # fmt: skip
    freeze_plan(tmp_path / "plan.arrow", units, handmade.settings(), len(prompts))
    frozen = Plan(tmp_path / "plan.arrow")
    around = 6  # BOS BOI h * w IMG
    assert longest_prompt(frozen, (1, 16, 24)) == 6 + around
    assert longest_prompt(frozen, (1, 8, 8)) == 30 + around
    assert progress_counts(frozen, [0, 1, 2, 3], PromptRenderer(sequences, "", False, None)) == (3 * 10 + 4, 0)
    assert progress_counts(frozen, [1], PromptRenderer(sequences, "", False, None)) == (3 * 10 + 4, 2 * 10 + 4)
    assert progress_counts(frozen, [], PromptRenderer(sequences, "", False, None)) == (3 * 10 + 4, 3 * 10 + 4)


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(sequences: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "x" * 20, "", 2, 3)  # 20 and 6 around them, an image of 2 · 4 + 2
    assert [unit.height for unit in plan([prompt], sequences, positions=36)] == [16]
    reason, detail = refusal_of(plan([prompt], sequences, positions=35))
    assert reason == "too_long"
    assert detail == "prompt (26) and image of 2×3 codes take 36 tokens, the model has 35 positions"


def test_suffix_and_negative_prompt_take_positions(sequences: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "xx", "x" * 20, 2, 3)
    assert refusal_of(plan([prompt], sequences, positions=35))[0] == "too_long"
    unguided = PromptRenderer(sequences, "", False, None)
    assert unguided.negative_ids(prompt) is None
    assert [unit.height for unit in plan_prompts([prompt], unguided, 35, 1)] == [16]
    suffixed = PromptRenderer(sequences, "x" * 18, False, None)
    assert refusal_of(plan_prompts([prompt], suffixed, 35, 1))[0] == "too_long"


@pytest.mark.parametrize(
    ("images", "text", "has_index", "reason", "named"),
    [
        (("one",), "a", False, "missing_image", "--images"),
        (("one", "four"), "a", True, "missing_image", "'four'"),
        (("one",), "<image> and <image>", True, "bad_images", "2 <image> marks in the text, 1 images"),
        ((), "a literal <image>", True, "bad_images", "1 <image> marks in the text, 0 images"),
    ],
)
def test_prompts_whose_images_are_missing_are_refused(
    images: tuple[str, ...],
    text: str,
    has_index: bool,
    reason: str,
    named: str,
    coded_images: Dataset,
    sequences: SequenceRenderer,
) -> None:
    renderer = PromptRenderer(sequences, "", True, KeyReader(coded_images) if has_index else None)
    prompt = Prompt("a", "p#1", text, "no", 2, 3, 4, images)
    units = plan_prompts([prompt], renderer, 400, 1)
    assert refusal_of(units)[0] == reason
    assert named in refusal_of(units)[1]
    item = units[0].inputs[0]
    assert (item.key, item.uri, item.text) == ("a", "p#1", text)


def test_videos_have_units_and_tokens_of_their_own(sequences: SequenceRenderer, tmp_path: Path) -> None:
    prompts = [Prompt("i", "p", "xx", "", 2, 3), video(), video(1, key="one"), video(4, key="four", fps=12.0)]
    units = plan(prompts, sequences)
    assert [unit.size for unit in units] == [(4, 16, 24), (3, 16, 24), (1, 16, 24)]
    assert [item.key for unit in units for item in unit.inputs] == ["four", "v", "i", "one"]
    planned = [planned_prompt(unit, item, EMU3) for unit in units for item in unit.inputs]
    with_fps = [replace(prompt, fps=prompt.fps or 8.0) if prompt.frames else prompt for prompt in prompts]
    assert planned == [with_fps[index] for index in (3, 1, 0, 2)]
    freeze_plan(tmp_path / "plan.arrow", units, handmade.settings(), len(prompts))
    frozen = Plan(tmp_path / "plan.arrow")
    assert longest_prompt(frozen, (3, 16, 24)) == 2 + 8  # BOS BOI t * h * w IMG
    with_rows = SequenceRenderer(sequences.text_tokenizer, sequences.layout, ROWS)
    assert max_body_length((3, 16, 24), sequences, EMU3) == 3 * 7 + 1
    assert max_body_length((3, 16, 24), with_rows, EMU3) == 3 * 9 + 1
    assert max_body_length((1, 16, 24), sequences, EMU3) == 10, "that of an image, which is longer"
    assert progress_counts(frozen, [0], PromptRenderer(sequences, "", False, None)) == (29 + 22 + 2 * 10, 22 + 2 * 10)


def test_a_video_that_does_not_fit_is_refused_with_numbers(sequences: SequenceRenderer) -> None:
    units = plan([video(100, text="x" * 20)], sequences, positions=729)
    reason, detail = refusal_of(units)
    assert reason == "too_long"
    assert detail == "prompt (30) and video of 100×2×3 codes take 731 tokens, the model has 729 positions"
    assert [unit.frames for unit in plan([video(100, text="x" * 20)], sequences, positions=731)] == [100]


@pytest.mark.parametrize(
    ("changes", "has_index", "reason", "named"),
    [
        ({"video": "clip"}, False, "missing_image", "--images"),
        ({"video": "nowhere"}, True, "missing_image", "'nowhere'"),
        ({"video": "failed"}, True, "missing_image", "'failed'"),
        ({"video": "clip", "frames": 2}, True, "bad_frames", "2 frames: the clip has 2"),
        ({"video": "clip", "frames": 1}, True, "bad_frames", "1 frames: the clip has 2"),
        ({"video": "clip", "height": 3, "width": 2}, True, "bad_size", "3×2 codes: the clip has 2×3"),
        ({"video": "clip", "frames": 300}, True, "too_long", "video of 300×2×3"),
    ],
)
def test_videos_that_cannot_continue_a_clip_are_refused(
    changes: dict[str, Any], has_index: bool, reason: str, named: str, clips: Dataset, sequences: SequenceRenderer
) -> None:
    renderer = PromptRenderer(sequences, "", True, KeyReader(clips) if has_index else None)
    units = plan_prompts([video(**changes)], renderer, 400, 1)
    assert [unit.size for unit in units] == [(0, 0, 0)]
    assert refusal_of(units)[0] == reason
    assert named in refusal_of(units)[1]


def test_planned_images_have_the_json_of_version_0_1(sequences: SequenceRenderer) -> None:
    """The expected JSON predates videos: with an additional key, datasets of that time could not be resumed."""
    prompts = [
        Prompt("a", "p", "a red apple", "", 2, 3),
        Prompt("b", "p", "b", "no", 2, 3, seed=7),
        Prompt("c", "p", "like", "", 2, 3, images=("x",)),
        Prompt("d", "p", "", refusal=("bad_entry", "")),
    ]
    units = plan(prompts, sequences)
    assert [item.extra_json for unit in units for item in unit.inputs] == [
        '{"images":[],"negative_prompt":"","prompt_tokens":9,"seed":0}',
        '{"images":[],"negative_prompt":"no","prompt_tokens":8,"seed":7}',
        '{"images":["x"],"negative_prompt":"","prompt_tokens":0,"seed":0}',
        '{"images":[],"negative_prompt":"","prompt_tokens":0,"seed":0}',
    ]
