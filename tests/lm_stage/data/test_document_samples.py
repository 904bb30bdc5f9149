"""Documents of text and images: drawings, edits and stories in the forms of both families, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.data.document_samples import DocumentSamples
from lm_stage.data.mixture import Mixture, open_samples
from lm_stage.data.options import LossWeights, MixtureEntry, mixture_problems
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.data.skipped import SkippedSamples
from lm_stage.text.prompting import EMU35, PLAIN, Prompting
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.errors import DatasetError, UsageError
from tests.support.flip import flip_bit
from tests.support.prompts import write_entries
from tests.support.sft_samples import (
    assert_lengths_are_true,
    image_row,
    opened,
    sequence_row,
    small_builder,
    video_row,
    write_dataset,
    write_lines,
)

DRAWING: dict[str, Any] = {"text": "a red apple", "answer": "<image>", "answer_images": ["k0"]}
EDIT: dict[str, Any] = {"text": "make it green", "images": ["k0"], "answer_images": ["k1"]}
STORY: dict[str, Any] = {
    "task": "story",
    "text": "tell of this:",
    "images": ["k2"],
    "answer": "once <image>, then <image> the end",
    "answer_images": ["k0", "k1"],
}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """Images k0, k1 and k2."""
    return write_dataset(tmp_path / "codes", [[image_row(index) for index in range(3)]])


@pytest.fixture(scope="module")
def emu35() -> SequenceBuilder:
    return small_builder(prompting=EMU35)


def documents(folder: Path, codes: Path, builder: SequenceBuilder, *lines: Any) -> DocumentSamples:
    samples = opened(write_lines(folder / "d.jsonl", *lines), builder, "document", codes)
    assert isinstance(samples, DocumentSamples)
    return samples


class Expected:
    """Writes out a training sequence: texts, control tokens and images, each supervised or not."""

    def __init__(self, samples: DocumentSamples, builder: SequenceBuilder):
        self.samples, self.builder = samples, builder
        self.token_ids: list[int] = []
        self.weights: list[float] = []

    def add(self, weight: float, *parts: str | ImageNumber) -> Expected:
        for part in parts:
            ids = self._image(part) if isinstance(part, ImageNumber) else self._text(part)
            self.token_ids += ids
            self.weights += [weight] * len(ids)
        return self

    def _image(self, number: ImageNumber) -> list[int]:
        grid = self.samples.images.grid(number)
        return np.concatenate(self.builder.renderer.header_and_body(grid)).tolist()

    def _text(self, text: str) -> list[int]:
        """A role of a control token in capitals, or text."""
        is_role = text in ("BOS", "BSS", "ESS", "EOS")
        return [getattr(self.builder.layout, text.lower())] if is_role else self.builder.encode(text).tolist()

    def check(self, sequence: TrainingSequence) -> None:
        assert sequence.token_ids.tolist() == self.token_ids
        assert sequence.weights.tolist() == self.weights


class ImageNumber(int):
    """The number of an image of the dataset."""


K0, K1, K2 = map(ImageNumber, range(3))


def test_a_drawing_of_emu35(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    samples = documents(tmp_path, codes, emu35, DRAWING)
    prompt = "You are a helpful assistant for t2i task. USER: a red apple ASSISTANT: "
    expected = Expected(samples, emu35).add(0, "BOS", prompt, "BSS").add(1, K0, "ESS", "EOS")
    expected.check(samples.sequence(0, drop_caption=False))
    unprompted = Expected(samples, emu35).add(0, "BOS", "You are a helpful assistant. USER:  ASSISTANT: ", "BSS")
    unprompted.add(1, K0, "ESS", "EOS").check(samples.sequence(0, drop_caption=True))


def test_an_edit_of_emu35(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    samples = documents(tmp_path, codes, emu35, EDIT)
    before, after = "You are a helpful assistant for x2i task. USER: ", "make it green ASSISTANT: "
    expected = Expected(samples, emu35).add(0, "BOS", before, K0, after, "BSS").add(1, K1, "ESS", "EOS")
    expected.check(samples.sequence(0, drop_caption=False))
    before, after = "You are a helpful assistant. USER: ", " ASSISTANT: "
    unprompted = Expected(samples, emu35).add(0, "BOS", before, K0, after, "BSS")
    unprompted.add(1, K1, "ESS", "EOS").check(samples.sequence(0, drop_caption=True))


@pytest.mark.parametrize("drop_caption", [False, True])
def test_a_story_of_emu35(tmp_path: Path, codes: Path, emu35: SequenceBuilder, drop_caption: bool) -> None:
    samples = documents(tmp_path, codes, emu35, STORY)
    before, after = "You are a helpful assistant for story task. USER: tell of this:", " ASSISTANT: "
    expected = Expected(samples, emu35).add(0, "BOS", before, K2, after, "BSS")
    expected.add(1, "once ", K0, ", then ", K1, " the end", "ESS", "EOS")
    expected.check(samples.sequence(0, drop_caption))


def test_an_edit_of_emu3(tmp_path: Path, codes: Path, builder: SequenceBuilder) -> None:
    samples = documents(tmp_path, codes, builder, EDIT)
    expected = Expected(samples, builder).add(0, "BOS", K0, "make it green").add(1, K1, "EOS")
    expected.check(samples.sequence(0, drop_caption=False))


@pytest.mark.parametrize("prompting", [PLAIN, EMU35], ids=lambda one: one.name)
def test_lengths_match_the_sequences(tmp_path: Path, codes: Path, prompting: Prompting) -> None:
    lines = [DRAWING, EDIT, {**STORY, "task": "chat"}, {"text": "why?", "answer": "so"}]
    assert_lengths_are_true(documents(tmp_path, codes, small_builder(prompting=prompting), *lines))


@pytest.mark.parametrize(("over", "visual", "other"), [("visual", 1, 0), ("text", 0, 1)])
def test_the_loss_covers_one_type_of_token(tmp_path: Path, codes: Path, over: str, visual: int, other: int) -> None:
    builder = small_builder(LossWeights(over), EMU35)
    samples = documents(tmp_path, codes, builder, DRAWING)
    sequence, layout = samples.sequence(0, False), builder.layout
    answer = sequence.token_ids[sequence.token_ids.tolist().index(layout.bss) + 1 :]
    expected = [visual if layout.is_visual(token) else other for token in answer.tolist()]
    assert sequence.weights[-len(answer) :].tolist() == expected
    assert not sequence.weights[: -len(answer)].any()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({**DRAWING, "answer_images": ["nowhere"]}, "has no image 'nowhere'"),
        ({**DRAWING, "answer_images": ["clip"]}, "has no image 'clip'"),
        ({**DRAWING, "answer": "<image> <image>"}, "2 <image> marks in the text, 1 images given"),
        ({"text": "a"}, "expected `answer` with some text or `answer_images`"),
        ({**DRAWING, "answer_images": "k0"}, "`answer_images`: expected a list of keys"),
        ({**DRAWING, "text": 5}, "`text`: expected text, got 5"),
        ({**DRAWING, "text": "\ud800"}, "`text`: expected text"),
        ({**DRAWING, "task": "stage1"}, "`task`: expected one of chat, t2i, x2i, story, howto, explore, vla"),
        ({**DRAWING, "images_of": []}, "unknown fields images_of"),
    ],
)
def test_a_document_that_cannot_be_used_is_left_out(
    tmp_path: Path, emu35: SequenceBuilder, line: dict[str, Any], reason: str
) -> None:
    rows = [sequence_row(0), video_row(1, 2, key="clip")]
    codes = write_dataset(tmp_path / "codes", [rows], format=SEQUENCE_FORMAT)
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ({**line, "key": "bad"}, DRAWING)))
    samples = opened(path, emu35, "document", codes)
    assert samples.keys == ["d.jsonl#2"]
    [(key, found)] = samples.unusable
    assert key == "bad"
    assert reason in found


@pytest.mark.parametrize("key", ["\ud800", {"a": 1}, "", True, "k" * 1001])
def test_a_key_that_is_none_is_refused(tmp_path: Path, codes: Path, emu35: SequenceBuilder, key: object) -> None:
    path = write_entries(tmp_path / "d.jsonl", [{**DRAWING, "key": key}, {**DRAWING, "key": 5}])
    samples = opened(path, emu35, "document", codes)
    assert samples.keys == ["5"], "an integer is accepted, as by prompts and questions"
    [(named, reason)] = samples.unusable
    assert named == "d.jsonl#1"
    assert "`key`" in reason


def test_documents_with_the_key_of_an_earlier_one_are_left_out(
    tmp_path: Path, codes: Path, emu35: SequenceBuilder
) -> None:
    lines = [{**DRAWING, "key": "a"}, {**DRAWING, "key": "a"}, {"text": "x", "key": "b"}, {**DRAWING, "key": "b"}]
    samples = documents(tmp_path, codes, emu35, *lines)
    assert samples.keys == ["a"]
    assert [(key, reason.partition("expected")[0]) for key, reason in samples.unusable] == [
        ("a", "line 2: key 'a' is taken by line 1"),
        ("b", ""),
        ("b", "line 4: key 'b' is taken by line 3"),
    ]
    entry = MixtureEntry(str(tmp_path / "d.jsonl"), "document", images=str(codes))
    SkippedSamples(tmp_path, 0, [Mixture([entry], emu35, 400)]).write()
    assert len((tmp_path / "left_out.jsonl").read_text().splitlines()) == 3


def test_documents_without_a_token_that_the_loss_covers_are_left_out(tmp_path: Path, codes: Path) -> None:
    builder, text = small_builder(LossWeights("visual"), EMU35), {"text": "why?", "answer": "so", "images": []}
    assert documents(tmp_path, codes, builder, text, EDIT).keys == ["d.jsonl#2"]
    with pytest.raises(
        UsageError, match=r"no samples for task document; d\.jsonl#1: .* --loss visual covers only codes"
    ):
        documents(tmp_path, codes, builder, text)


def test_a_line_that_is_no_object_is_named(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    with pytest.raises(UsageError, match=r"d\.jsonl: line 2: expected a JSON object"):
        documents(tmp_path, codes, emu35, DRAWING, ["a"])


def test_documents_are_lines(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    with pytest.raises(UsageError, match=r"task document: expected a \.jsonl file of documents"):
        open_samples(MixtureEntry(str(codes), "document", images=str(codes)), emu35)
    path = write_lines(tmp_path / "d.jsonl", DRAWING)
    with pytest.raises(UsageError, match="task image: expected task=text or task=document"):
        open_samples(MixtureEntry(str(path)), emu35)


def test_the_fingerprint_covers_documents_and_images(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    first = documents(tmp_path, codes, emu35, DRAWING).fingerprint
    assert documents(tmp_path, codes, emu35, DRAWING).fingerprint == first
    assert documents(tmp_path, codes, emu35, DRAWING, EDIT).fingerprint != first
    others = write_dataset(tmp_path / "others", [[image_row(index) for index in range(2)]])
    assert documents(tmp_path, others, emu35, DRAWING).fingerprint != first


def test_mixtures_record_the_prompting(
    tmp_path: Path, codes: Path, emu35: SequenceBuilder, builder: SequenceBuilder
) -> None:
    path = write_lines(tmp_path / "d.jsonl", DRAWING)
    entries = [MixtureEntry(str(path), "document", images=str(codes))]
    assert Mixture(entries, emu35, 400).fingerprints()[0]["prompting"] == "emu3.5"
    assert "prompting" not in Mixture(entries, builder, 400).fingerprints()[0]


def test_a_damaged_image_is_noticed_when_it_is_read(tmp_path: Path, codes: Path, emu35: SequenceBuilder) -> None:
    part = max((codes / "parts").glob("*.arrow"), key=lambda path: path.stat().st_size)
    flip_bit(part, image_row(0).codes_bytes)
    path = write_lines(tmp_path / "d.jsonl", DRAWING, EDIT)
    samples = open_samples(MixtureEntry(str(path), "document", images=str(codes)), emu35, keeps_damaged=True)
    with pytest.raises(DatasetError, match="damaged"):
        samples.sequence(0, False)


def test_a_document_needs_a_weight_for_codes_or_text() -> None:
    entry = MixtureEntry("d.jsonl", "document", images="codes")
    assert mixture_problems([entry], LossWeights("after_prompt", 0.0)) == []
    assert mixture_problems([entry], LossWeights("text")) == []
    assert mixture_problems([entry], LossWeights("visual", 0.0))
