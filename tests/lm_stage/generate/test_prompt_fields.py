"""Fields of prompts: a bad field refuses its own prompt only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompts import Prompt, PromptDefaults
from tests.support.prompts import write_entries

DEFAULTS = PromptDefaults(area=32 * 32)


def reasons(prompts: Sequence[Prompt]) -> list[str | None]:
    return [prompt.refusal and prompt.refusal[0] for prompt in prompts]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**70},
        {"height": 8, "width": 80000},
        {"ratio": "2:1", "width": 8},
        {"area": 0},
        {"key": None},
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
