"""What the report page shows of the outputs of steps."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.report.media import Figure, read_answers


def test_answers_may_be_empty_and_contain_any_character(tmp_path: Path) -> None:
    lines = [
        {"key": "a", "answer": "", "error": None},
        {"key": "b", "answer": "two\u2028lines", "error": None},
        {"key": "c", "answer": None, "error": "too long"},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert read_answers(path) == {"a": "", "b": "two\u2028lines", "c": "too long"}


def test_a_figure_is_a_video_by_its_media_type() -> None:
    assert Figure("clip", "data:video/mp4;base64,AA", "").is_video
    assert not Figure("clip", "data:image/webp;base64,AA", "").is_video
