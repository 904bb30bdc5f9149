"""Prompts: bad fields refuse their own prompt only, bad defaults stop the run, and sizes in codes are upstream's."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompts import Prompt, PromptDefaults, grid_size
from lm_stage.text import prompting
from shared.codec import EMU3, EMU35
from shared.errors import RefusedInput, UsageError
from tests.support.prompts import write_entries

DEFAULTS = PromptDefaults(area=32 * 32)
DRAWINGS = PromptDefaults(area=prompting.EMU35.area, codec=EMU35, prompting=prompting.EMU35)


def reasons(prompts: Sequence[Prompt]) -> list[str | None]:
    return [prompt.refusal and prompt.refusal[0] for prompt in prompts]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**70},
        {"height": 8, "width": 80000},
        {"ratio": "2:1", "width": 8},
        {"area": 0},
        {"key": 1.5},
        {"key": "k" * 1001},
        {"key": "a\0b"},
        {"seed": -1},
        {"samples": 10**9},
        {"samples": float("nan")},
        {"area": float("inf")},
        {"height": 10**39, "width": 8},
        {"key": [1]},
        {"key": ""},
        {"key": "\ud800"},
        {"prompt": "\ud800"},
        {"negative_prompt": "\ud800"},
        {"images": ["\ud800"]},
    ],
)
def test_values_that_no_plan_can_hold_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a", **fields}))
    (prompt,) = list_prompts(path, PromptDefaults(32 * 32))
    assert prompt.refusal is not None
    assert prompt.refusal[0] in ("bad_entry", "bad_size")
    assert prompt.refusal[1].startswith("line 1: ")


@pytest.mark.parametrize(
    ("entry", "reason", "named"),
    [
        (
            {"prompt": "a", "promt": "b", "zoom": 2},
            "bad_entry",
            "unknown fields 'promt', 'zoom'; expected some of area, fps, frames, height",
        ),
        (5, "bad_entry", "int"),
        (None, "bad_entry", "NoneType"),
        (["a"], "bad_entry", "list"),
        ({}, "empty_prompt", "None"),
        ("", "empty_prompt", "''"),
        ({"prompt": " \n"}, "empty_prompt", "prompt"),
        ({"prompt": ["a"]}, "empty_prompt", "['a']"),
        ({"prompt": "a", "images": "one"}, "bad_entry", "`images`"),
        ({"prompt": "a", "images": [1]}, "bad_entry", "`images`"),
        ({"prompt": "a", "negative_prompt": 3}, "bad_entry", "`negative_prompt`"),
        ({"prompt": "a", "seed": "1"}, "bad_entry", "`seed`"),
        ({"prompt": "a", "seed": True}, "bad_entry", "`seed`"),
        ({"prompt": "a", "area": 1.5}, "bad_entry", "`area`"),
        ({"prompt": "a", "height": "64", "width": 64}, "bad_entry", "`height`"),
        ({"prompt": "a", "samples": 0}, "bad_entry", "`samples`"),
        ({"prompt": "a", "samples": True}, "bad_entry", "`samples`"),
        ({"prompt": "a", "samples": "2"}, "bad_entry", "`samples`"),
        ({"prompt": "a", "frames": -1}, "bad_frames", "got -1"),
        ({"prompt": "a", "frames": 65536}, "bad_frames", "65535"),
        ({"prompt": "a", "frames": 1.5}, "bad_entry", "`frames`"),
        ({"prompt": "a", "frames": True}, "bad_entry", "`frames`"),
        ({"prompt": "a", "video": "clip"}, "bad_frames", "expected `frames` too"),
        ({"prompt": "a", "video": 3, "frames": 2}, "bad_entry", "`video`"),
        ({"prompt": "a", "video": "", "frames": 2}, "bad_entry", "`video`"),
        ({"prompt": "a", "fps": 8}, "bad_entry", "`fps`: expected `frames` too"),
        ({"prompt": "a", "frames": 2, "fps": 0}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": "8"}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": True}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": float("nan")}, "bad_entry", "`fps`"),
        ({"prompt": "a", "ratio": "0:1"}, "bad_ratio", "'0:1'"),
        ({"prompt": "a", "ratio": 1.5}, "bad_ratio", "1.5"),
        ({"prompt": "a", "height": 64}, "bad_size", "both or neither"),
        ({"prompt": "a", "height": 64, "width": 60}, "bad_size", "64×60"),
        ({"prompt": "a", "area": 10}, "bad_size", "area 10"),
    ],
)
def test_a_bad_entry_is_refused_and_the_others_are_not(entry: Any, reason: str, named: str, tmp_path: Path) -> None:
    prompts = list_prompts(write_entries(tmp_path / "prompts.jsonl", ["before", entry, "after"]), DEFAULTS)
    assert reasons(prompts) == [None, reason, None]
    assert prompts[1].refusal is not None
    assert named in prompts[1].refusal[1]
    assert [prompt.key for prompt in prompts] == ["000001", "000002", "000003"]
    assert prompts[1].uri == "prompts.jsonl#2"


def test_a_refused_entry_keeps_its_own_key(tmp_path: Path) -> None:
    entries = [{"key": "mine", "prompt": ""}, {"name": "too", "prompt": "a", "samples": 0}]
    prompts = list_prompts(write_entries(tmp_path / "prompts.json", entries), DEFAULTS)
    assert [prompt.key for prompt in prompts] == ["mine", "too"]


@pytest.mark.parametrize(
    "changes",
    [{"samples": 0}, {"ratio": "0:1"}, {"area": 0}, {"height": 64}, {"height": 60, "width": 64}, {"frames": -1}],
)
def test_bad_defaults_stop_the_run(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PromptDefaults(**{"area": 32 * 32, **changes})


@pytest.mark.parametrize(
    ("ratio", "area", "size"),
    [
        ("1:1", 720 * 720, (90, 90)),
        ("1:1", 512 * 512, (64, 64)),
        ("16:9", 720 * 720, (68, 120)),  # 67.5 rows
        ("9:16", 720 * 720, (120, 68)),
        ("4:3", 720 * 720, (78, 104)),
        ("1.5:1", 24 * 16, (2, 3)),
        ("1:1", 20 * 20, (2, 2)),  # 2.5 codes: Python rounds to even
        ("1:1", 28 * 28, (4, 4)),  # 3.5 codes
        ("1:1", 64, (1, 1)),
    ],
)
def test_ratio_and_area_give_the_grid_of_upstream(ratio: str, area: int, size: tuple[int, int]) -> None:
    assert grid_size(EMU3, ratio, area) == size


@given(st.integers(1, 40), st.integers(1, 40), st.integers(64 * 64, 2048 * 2048))
def test_the_grid_is_the_nearest_to_ratio_and_area(across: int, down: int, area: int) -> None:
    height, width = grid_size(EMU3, f"{across}:{down}", area)
    side = math.sqrt(area / (across * down))
    assert abs(height * 8 - down * side) < 4.001
    assert abs(width * 8 - across * side) < 4.001
    assert grid_size(EMU3, f"{down}:{across}", area) == (width, height)


def test_a_code_of_16_pixels_gives_half_as_many_rows() -> None:
    assert grid_size(EMU35, "1:1", 1024 * 1024) == (64, 64)
    assert grid_size(EMU35, "4:3", 1024 * 1024) == (55, 74)  # 55.4 × 73.9
    assert grid_size(EMU35, "1:1", 0, 512, 768) == (32, 48)
    with pytest.raises(RefusedInput, match="multiples of 16"):
        grid_size(EMU35, "1:1", 0, 512, 760)
    with pytest.raises(RefusedInput, match="at most 4095 per side"):
        grid_size(EMU35, "1:1", 0, 16, 65_536)


def test_published_grids_are_for_the_published_codec() -> None:
    """A code of 8 pixels would make an image of a quarter of the area."""
    other = replace(DRAWINGS, codec=replace(EMU35, spatial_factor=8))
    assert DRAWINGS.default_grid_size("4:3", DRAWINGS.area, None, None) == (55, 73)
    assert other.default_grid_size("4:3", other.area, None, None) == (111, 148)


def test_videos_of_a_codec_of_images_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--frames 2: .* encodes images only"):
        PromptDefaults(32 * 32, frames=2, codec=EMU35)
    path = write_entries(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b", "frames": 2}])
    still, video = list_prompts(path, PromptDefaults(32 * 32, codec=EMU35))
    assert (still.height, still.width, still.refusal) == (2, 2, None)
    assert video.refusal is not None
    assert video.refusal[0] == "bad_frames"


def test_height_and_width_win_over_ratio_and_area() -> None:
    assert grid_size(EMU3, "16:9", 720 * 720, 64, 48) == (8, 6)
    assert grid_size(EMU3, "16:9", 720 * 720, 8, 8) == (1, 1)


@pytest.mark.parametrize(
    "ratio",
    [
        "0:1",
        "1:0",
        "-1:1",
        "1:-1",
        "-1:-1",
        "nan:1",
        "1:nan",
        "inf:1",
        "1:inf",
        "wide",
        "",
        ":",
        "16",
        "16:9:1",
        "1e9:1",
    ],
)
def test_ratios_that_give_no_image_are_refused(ratio: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        grid_size(EMU3, ratio, 720 * 720)
    assert refused.value.reason == "bad_ratio"
    assert repr(ratio) in refused.value.detail


@pytest.mark.parametrize(
    ("height", "width"), [(64, None), (None, 64), (60, 64), (64, 60), (0, 64), (64, 0), (-8, 64), (64, -8), (4, 4)]
)
def test_sizes_that_give_no_image_are_refused(height: int | None, width: int | None) -> None:
    with pytest.raises(RefusedInput, match="bad_size"):
        grid_size(EMU3, "1:1", 720 * 720, height, width)


@pytest.mark.parametrize("area", [63, 0, -64])
def test_areas_below_one_code_are_refused(area: int) -> None:
    with pytest.raises(RefusedInput, match=f"bad_size: area {area}"):
        grid_size(EMU3, "1:1", area)


def test_areas_beyond_any_image_are_refused() -> None:
    with pytest.raises(RefusedInput, match="125000×125000 codes"):
        grid_size(EMU3, "1:1", 10**12)


@pytest.mark.parametrize(("ratio", "area"), [("1e-200:1e-200", 518400), ("1e308:1e-308", 518400), ("1:1", 10**400)])
def test_numbers_beyond_arithmetic_are_refused(ratio: str, area: int) -> None:
    with pytest.raises(RefusedInput, match="bad_ratio"):
        grid_size(EMU3, ratio, area)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (64, 64)),
        ({"ratio": "4:3"}, (55, 73)),
        ({"ratio": "9:16"}, (85, 47)),
        ({"ratio": "5:4"}, (57, 72)),
        ({"ratio": "4:3", "area": 512 * 512}, (28, 37)),
        ({"height": 160, "width": 320}, (10, 20)),
        ({"images": ["one"]}, (0, 0)),
        ({"images": ["one"], "ratio": "1:1"}, (64, 64)),
        ({"images": ["one", "two"]}, (64, 64)),
    ],
)
def test_drawings_of_emu35_have_published_grids_and_edits_the_size_of_their_image(
    tmp_path: Path, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    path = write_entries(tmp_path / "p.jsonl", [{"prompt": "x", **fields}])
    [prompt] = list_prompts(path, DRAWINGS)
    assert (prompt.height, prompt.width) == size
