"""Options that generate and understand share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.options import InferenceOptions, SamplingOptions
from lm_stage.inference.requests import ImageRequest
from lm_stage.understand.options import UnderstandOptions
from shared.errors import UsageError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"video_template": "emu3"}, "--video-template"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, "--seed 9223372036854775808"),
    ],
)
def test_bad_options_are_named_by_their_flags(changes: dict[str, Any], named: str) -> None:
    jobs: list[tuple[type[InferenceOptions], tuple[str, str]]] = [
        (GenerateOptions, ("prompts.txt", "tokens")),
        (UnderstandOptions, ("codes", "answers.jsonl")),
    ]
    for options_class, arguments in jobs:
        with pytest.raises(UsageError, match=named):
            options_class(*arguments, **changes)


def test_workers_get_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate = GenerateOptions("prompts.txt", "tokens", images="s3://bucket/codes", model="model").for_workers()
    assert generate.dataset == str(tmp_path / "tokens")
    assert generate.images == "s3://bucket/codes"
    assert (generate.model, generate.layout) == (str(tmp_path / "model"), None)
    understand = UnderstandOptions(None, "answers.jsonl", questions="questions.jsonl", layout="ids.json").for_workers()
    assert (understand.dataset, understand.questions) == (None, str(tmp_path / "questions.jsonl"))
    assert understand.layout == str(tmp_path / "ids.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-300},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": float("nan")},
        {"top_p": 1.5},
    ],
)
def test_sampling_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        SamplingOptions(**changes)


@pytest.mark.parametrize("guidance_scale", [float("nan"), -1.0, float("inf"), 1e308])
def test_guidance_that_cannot_work_is_refused(guidance_scale: float) -> None:
    with pytest.raises(UsageError, match="--guidance-scale"):
        GenerateOptions("prompts.txt", "tokens", guidance_scale=guidance_scale)


@pytest.mark.parametrize("window", [0, -1, 1025])
def test_a_window_out_of_range_is_refused(window: int) -> None:
    with pytest.raises(UsageError, match=f"--window {window}: expected an integer from 1 to 1024"):
        GenerateOptions("prompts.txt", "tokens", window=window)
    with pytest.raises(UsageError, match=f"--window {window}"):
        ImageRequest(prompts=[], height=2, width=2, window=window)


def test_options_load_no_library() -> None:
    """So `emu3 generate --help` is quick."""
    script = (
        "import sys, lm_stage.generate.options, lm_stage.understand.options;"
        "print({name.partition('.')[0] for name in sys.modules} & {'mindspore', 'numpy', 'pyarrow', 'tokenizers'})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
