"""What the report page shows of the outputs of steps."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from pipelines.report.media import Figure, picture_sections, read_answers
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.step import Input, Step
from tests.support import handmade
from vq_stage.decode.output_files import picture_path


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


def test_decode_steps_without_a_common_key_have_sections_of_their_own(tmp_path: Path) -> None:
    steps = []
    for name, keys in (("before", ("one", "two")), ("edited", ("one-blue",)), ("after", ("one", "two"))):
        codes = handmade.make(tmp_path / f"codes-{name}", keys).root
        for key in keys:
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (16, 16)).save(picture_path(tmp_path / name, key, "png"))
        steps.append(Step(name, "decode", (), tmp_path / name, (Input("dataset", str(codes)),), ()))
    sections = list(picture_sections(Pipeline("p", tmp_path, tuple(steps))))
    labels = [[[figure.label for figure in card.figures] for card in section.cards] for section in sections]
    assert labels == [[["before", "after"], ["before", "after"]], [["edited"]]]
