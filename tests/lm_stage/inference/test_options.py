"""Options that generate and understand share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_stage.generate.options import GenerateOptions
from lm_stage.inference.options import InferenceOptions
from lm_stage.understand.options import UnderstandOptions
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("changes", "named"), [({"batch_size": 0}, "--batch-size 0"), ({"video_template": "emu3"}, "--video-template")]
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
