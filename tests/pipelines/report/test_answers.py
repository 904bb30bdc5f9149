"""Decoded answers of text and images on the report page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.report.answers import answer_sections
from pipelines.report.media import Answer, picture_sections
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.step import Input, Step
from shared.dataset.rows import AnswerPart, AnswerRecord
from shared.dataset.settings import ANSWER_FORMAT
from tests.support import handmade
from tests.support.sft_samples import write_dataset
from vq_stage.decode.output_files import picture_path

PARTS = (
    AnswerPart("reasoning", "What is a snake?"),
    AnswerPart("text", "First, "),
    AnswerPart("text", "a snake_case."),
    AnswerPart("image_reasoning", "A thin one."),
    AnswerPart("image", None, 1, 2),
    AnswerPart("image", None, 2, 1),
    AnswerPart("text", " The end."),
)


def answer(key: str, parts: tuple[AnswerPart, ...]) -> AnswerRecord:
    codes_THW = np.zeros((1, 1, sum(part.h * part.w for part in parts)), np.uint16)
    return AnswerRecord(key, 0, "answer", codes_THW, "tell me", "p#1", bytes(32), 0, 0, parts=parts, tokens=[1])


def decoded(folder: Path, parts: tuple[AnswerPart, ...], pictures: int) -> Pipeline:
    """Return a pipeline whose only step has decoded one answer into this number of pictures."""
    dataset = write_dataset(folder / "answers", [[answer("a/b", parts)]], format=ANSWER_FORMAT)
    (folder / "pages").mkdir()
    for number in range(pictures):
        path = picture_path(folder / "pages", "a/b", "images") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(path)
    step = Step("pages", "decode", (), folder / "pages", (Input("dataset", str(dataset)),), ())
    return Pipeline("p", folder, (step,))


def test_pictures_have_the_text_before_them_as_label_without_reasoning(tmp_path: Path) -> None:
    pipeline = decoded(tmp_path, PARTS, pictures=2)
    [section] = answer_sections(pipeline)
    [card] = section.cards
    assert card.caption == "tell me"
    assert [figure.label for figure in card.figures] == ["First, a snake_case.", ""]
    assert card.figures[0].data_url != card.figures[1].data_url
    assert card.answers == (Answer("pages", "The end."),)
    assert list(picture_sections(pipeline)) == []


def test_an_answer_without_pictures_has_only_its_text(tmp_path: Path) -> None:
    [section] = answer_sections(decoded(tmp_path, PARTS[:3], pictures=0))
    assert (section.cards[0].figures, section.cards[0].answers) == ((), (Answer("pages", "First, a snake_case."),))


def test_pictures_are_not_answers(tmp_path: Path) -> None:
    codes = handmade.make(tmp_path / "codes").root
    (tmp_path / "out").mkdir()
    step = Step("out", "decode", (), tmp_path / "out", (Input("dataset", str(codes)),), ())
    assert list(answer_sections(Pipeline("p", tmp_path, (step,)))) == []
