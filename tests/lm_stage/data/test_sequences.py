"""Training sequences token by token, and the weight of every token in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lm_stage.data.options import LOSSES, LossWeights
from lm_stage.data.sequences import SequenceBuilder, TrainingSequence
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from lm_stage.text.templates import CHAT
from shared.errors import ShapeError
from shared.tokens.grid_formats import IMAGE, ROWS, UNIVLA, GridFormat
from tests.support.renderers import small_renderer
from tests.support.sft_samples import (
    extra_row,
    opened,
    write_dataset,
    write_lines,
)

CODEBOOK_SIZE = 64
CODES_HW = np.array([[5, 0, 63], [1, 2, 3]], np.uint16)
QUESTION = "2 pears or 3"  # encodes to the same tokens alone and within the template

# The loss, then the expected weight of a supervised visual token and of any other supervised token.
WEIGHTS = [
    (LossWeights(), 1.0, 1.0),
    (LossWeights("after_prompt", 0.5), 0.5, 1.0),
    (LossWeights("after_prompt", 0.0), 0.0, 1.0),
    (LossWeights("visual"), 1.0, 0.0),
    (LossWeights("visual", 0.25), 0.25, 0.0),
    (LossWeights("text"), 0.0, 1.0),
    (LossWeights("text", 3.0), 0.0, 1.0),
]

texts = st.text("a redpl.?2 é", max_size=12)
grids = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: arrays(np.uint16, size, elements=st.integers(0, CODEBOOK_SIZE - 1))
)
clips = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: arrays(np.uint16, size, elements=st.integers(0, CODEBOOK_SIZE - 1))
)
forms = st.sampled_from([UNIVLA, ROWS])
losses = st.builds(LossWeights, st.sampled_from(LOSSES), st.sampled_from([0.25, 1.0, 2.0]))


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    renderer = small_renderer(["a red apple", CHAT.opening(), CHAT.question_suffix] * 3, CODEBOOK_SIZE, text_ids=300)
    return SequenceBuilder(renderer, LossWeights())


def with_loss(builder: SequenceBuilder, loss: LossWeights) -> SequenceBuilder:
    return SequenceBuilder(builder.renderer, loss)


def with_form(builder: SequenceBuilder, form: GridFormat) -> SequenceBuilder:
    renderer = SequenceRenderer(builder.renderer.text_tokenizer, builder.layout, form)
    return SequenceBuilder(renderer, builder.loss)


def text_ids(builder: SequenceBuilder, text: str) -> list[int]:
    return builder.encode(text).tolist()


def header_ids(builder: SequenceBuilder) -> list[int]:
    return [builder.layout.boi, *text_ids(builder, "2*3"), builder.layout.img]


def body_ids(builder: SequenceBuilder) -> list[int]:
    """CODES_HW after its header, written out."""
    layout = builder.layout
    v = layout.first_visual_token
    first_row, second_row = [v + 5, v, v + 63, layout.eol], [v + 1, v + 2, v + 3, layout.eol]
    return [*first_row, *second_row, layout.eof, layout.eoi]


def assert_is(sequence: TrainingSequence, token_ids: Sequence[int], weights: Sequence[float]) -> None:
    assert (sequence.token_ids.dtype, sequence.weights.dtype) == (np.int32, np.float32)
    assert sequence.token_ids.tolist() == token_ids
    assert sequence.weights.tolist() == weights


@pytest.mark.parametrize(("loss", "visual", "other"), WEIGHTS)
@pytest.mark.parametrize("caption", ["a red apple", ""])
def test_an_image_follows_its_caption(
    builder: SequenceBuilder, caption: str, loss: LossWeights, visual: float, other: float
) -> None:
    caption_ids = text_ids(builder, caption)
    prompt = [builder.layout.bos, *caption_ids, *header_ids(builder)]
    row = [visual, visual, visual, other]
    assert_is(
        with_loss(builder, loss).captioned(np.array(caption_ids, np.int32), CodeGrid.image(CODES_HW)),
        [*prompt, *body_ids(builder), builder.layout.eos],
        [0.0] * len(prompt) + row + row + [other, other, other],
    )


@pytest.mark.parametrize(("loss", "visual", "other"), WEIGHTS)
@pytest.mark.parametrize("has_image", [True, False])
def test_an_answer_follows_its_question(
    builder: SequenceBuilder, has_image: bool, loss: LossWeights, visual: float, other: float
) -> None:
    image = [*header_ids(builder), *body_ids(builder)] if has_image else []
    texts = (
        [CHAT.opening(), f"{QUESTION}. ASSISTANT:"] if has_image else ["", f"{CHAT.opening()}{QUESTION}. ASSISTANT:"]
    )
    before, asked = (text_ids(builder, text) for text in texts)
    prompt = [builder.layout.bos, *before, *image, *asked]
    answer = text_ids(builder, "a red apple")
    turn = (builder.encode(CHAT.question_text(QUESTION, follows_grid=has_image)), np.array(answer, np.int32))
    sequence = with_loss(builder, loss).conversation([turn], CodeGrid.image(CODES_HW) if has_image else None)
    assert_is(sequence, [*prompt, *answer, builder.layout.eos], [0.0] * len(prompt) + [other] * (len(answer) + 1))


@pytest.mark.parametrize(("loss", "visual", "other"), WEIGHTS)
def test_a_text_alone(builder: SequenceBuilder, loss: LossWeights, visual: float, other: float) -> None:
    ids = text_ids(builder, "a red apple")
    assert_is(
        with_loss(builder, loss).text(np.array(ids, np.int32)),
        [builder.layout.bos, *ids, builder.layout.eos],
        [0.0] + [other] * (len(ids) + 1),
    )


@pytest.mark.parametrize(("loss", "visual", "other"), WEIGHTS)
def test_a_video_follows_its_caption(builder: SequenceBuilder, loss: LossWeights, visual: float, other: float) -> None:
    layout, caption_ids = builder.layout, text_ids(builder, "a red apple")
    v, size = layout.first_visual_token, text_ids(builder, "2*1*3")
    prompt = [layout.bos, *caption_ids, layout.boi, *size, layout.img]
    body = [v + 5, v, v + 63, layout.eof, v + 1, v + 2, v + 3, layout.eof, layout.eoi]
    assert_is(
        with_loss(builder, loss).captioned(np.array(caption_ids, np.int32), CodeGrid.video(CODES_HW[:, None])),
        [*prompt, *body, layout.eos],
        [0.0] * len(prompt) + [visual, visual, visual, other] * 2 + [other, other],
    )


@pytest.mark.parametrize(("loss", "visual", "other"), WEIGHTS)
def test_all_answers_of_a_conversation_are_trained(
    builder: SequenceBuilder, loss: LossWeights, visual: float, other: float
) -> None:
    eos = builder.layout.eos
    answers = [text_ids(builder, text) for text in ("a red apple", "7")]
    first = [builder.layout.bos, *text_ids(builder, CHAT.opening()), *header_ids(builder), *body_ids(builder)]
    first += text_ids(builder, f"{QUESTION}. ASSISTANT:")
    again = text_ids(builder, " USER: and 7?. ASSISTANT:")
    turns = [
        (builder.encode(CHAT.question_text(QUESTION, follows_grid=True)), np.array(answers[0], np.int32)),
        (builder.encode(CHAT.question_text("and 7?", turn=1, follows_grid=True)), np.array(answers[1], np.int32)),
    ]
    assert_is(
        with_loss(builder, loss).conversation(turns, CodeGrid.image(CODES_HW)),
        [*first, *answers[0], eos, *again, *answers[1], eos],
        [0.0] * len(first) + [other] * (len(answers[0]) + 1) + [0.0] * len(again) + [other] * (len(answers[1]) + 1),
    )


@given(caption=texts, codes_THW=clips, form=forms)
def test_a_video_is_trained_after_the_prompt_it_is_generated_from(
    builder: SequenceBuilder, caption: str, codes_THW: np.ndarray, form: GridFormat
) -> None:
    built = with_form(builder, form)
    sequence = built.captioned(builder.encode(caption), CodeGrid.video(codes_THW))
    prompt = built.renderer.generation_prompt([caption], form, *codes_THW.shape).tolist()
    assert sequence.token_ids[: len(prompt)].tolist() == prompt
    assert sequence.weights.tolist() == [0.0] * len(prompt) + [1.0] * (len(sequence.token_ids) - len(prompt))
    caption_ids = builder.encode(caption)
    assert len(sequence.token_ids) == 2 + len(caption_ids) + built.grid_length(True, *codes_THW.shape)


@given(question=texts, codes_THW=clips, form=forms)
def test_an_answer_about_a_video_is_trained_after_its_prompt(
    builder: SequenceBuilder, question: str, codes_THW: np.ndarray, form: GridFormat
) -> None:
    built, clip = with_form(builder, form), CodeGrid.video(codes_THW)
    sequence = built.conversation(
        [(builder.encode(CHAT.question_text(question, follows_grid=True)), builder.encode("a"))], clip
    )
    prompt = built.renderer.question_prompt([clip, question])
    assert sequence.token_ids.tolist() == [*prompt, *text_ids(builder, "a"), builder.layout.eos]
    assert not sequence.weights[: len(prompt)].any()


@given(caption=texts, codes_HW=grids)
def test_an_image_is_trained_after_the_prompt_it_is_generated_from(
    builder: SequenceBuilder, caption: str, codes_HW: np.ndarray
) -> None:
    sequence = builder.captioned(builder.encode(caption), CodeGrid.image(codes_HW))
    prompt = builder.renderer.generation_prompt([caption], IMAGE, 1, *codes_HW.shape).tolist()
    assert sequence.token_ids[: len(prompt)].tolist() == prompt
    assert sequence.weights.tolist() == [0.0] * len(prompt) + [1.0] * (len(sequence.token_ids) - len(prompt))


@given(question=texts, codes_HW=st.none() | grids)
def test_an_answer_is_trained_after_its_prompt(
    builder: SequenceBuilder, question: str, codes_HW: np.ndarray | None
) -> None:
    grid = None if codes_HW is None else CodeGrid.image(codes_HW)
    asked_ids = builder.encode(CHAT.question_text(question, follows_grid=grid is not None))
    sequence = builder.conversation([(asked_ids, builder.encode("a"))], grid)
    prompt = builder.renderer.question_prompt([question] if grid is None else [grid, question])
    assert sequence.token_ids.tolist() == [*prompt, *text_ids(builder, "a"), builder.layout.eos]


@given(question=texts, answer=texts, codes_HW=grids, loss=losses)
def test_prompts_and_the_images_in_them_are_never_supervised(
    builder: SequenceBuilder, question: str, answer: str, codes_HW: np.ndarray, loss: LossWeights
) -> None:
    supervised = with_loss(builder, loss)
    answer_ids = builder.encode(answer)
    for grid in (CodeGrid.image(codes_HW), None):
        asked_ids = builder.encode(CHAT.question_text(question, follows_grid=grid is not None))
        sequence = supervised.conversation([(asked_ids, answer_ids)], grid)
        prompt = len(sequence.token_ids) - len(answer_ids) - 1
        assert not sequence.weights[:prompt].any()
        assert sequence.weights[prompt:].all() == (loss.over != "visual")
        is_visual = [builder.layout.is_visual(token) for token in sequence.token_ids.tolist()]
        assert sum(is_visual) == (0 if grid is None else codes_HW.size)
        assert not sequence.weights[is_visual].any()


@given(caption=texts, answer=texts, codes_HW=grids)
def test_computed_lengths_equal_those_of_the_sequences(
    builder: SequenceBuilder, caption: str, answer: str, codes_HW: np.ndarray
) -> None:
    caption_ids, answer_ids = builder.encode(caption), builder.encode(answer)
    image = builder.grid_length(False, 1, *codes_HW.shape)
    assert len(builder.captioned(caption_ids, CodeGrid.image(codes_HW)).token_ids) == 2 + len(caption_ids) + image
    spoken = len(caption_ids) + len(answer_ids)
    beside = 2 + len(builder.chat_opening) + spoken + image
    assert len(builder.conversation([(caption_ids, answer_ids)], None).token_ids) == 2 + spoken
    assert len(builder.conversation([(caption_ids, answer_ids)], CodeGrid.image(codes_HW)).token_ids) == beside


def test_sizes_of_more_digits_have_longer_headers(builder: SequenceBuilder) -> None:
    assert builder.grid_length(False, 1, 2, 3) == 5 + 10
    assert builder.grid_length(False, 1, 12, 3) == 6 + 50
    assert builder.grid_length(False, 1, 2, 12) == 6 + 28
    assert builder.grid_length(False, 1, 2, 3) == 5 + 10, "a header states its own size, not the last one's"


def test_visual_tokens_end_where_the_codebook_ends(builder: SequenceBuilder) -> None:
    layout = replace(builder.layout, bos=1000, eos=builder.layout.end_of_visual)
    builder = SequenceBuilder(SequenceRenderer(builder.renderer.text_tokenizer, layout), LossWeights("visual", 0.5))
    sequence = builder.captioned(builder.encode("a"), CodeGrid.image(np.array([[0, CODEBOOK_SIZE - 1]], np.uint16)))
    *_, eos = sequence.token_ids
    assert eos == layout.first_visual_token + CODEBOOK_SIZE
    assert sequence.weights[-6:].tolist() == [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_codes_of_a_larger_codebook_are_refused(builder: SequenceBuilder) -> None:
    grid = CodeGrid.image(np.array([[CODEBOOK_SIZE]], np.uint16))
    with pytest.raises(ShapeError, match=r"\[0, 64\)"):
        builder.captioned(builder.encode("a"), grid)
    with pytest.raises(ShapeError, match=r"\[0, 64\)"):
        builder.conversation([(builder.encode("a"), builder.encode("a"))], grid)


def test_questions_are_encoded_only_for_tasks_that_ask_them(tmp_path: Path, builder: SequenceBuilder) -> None:
    encoded: list[str] = []

    class Listening(SequenceBuilder):
        def encode(self, text: str) -> np.ndarray:
            encoded.append(text)
            return super().encode(text)

    listening = Listening(builder.renderer, builder.loss)
    encoded.clear()
    opened(write_dataset(tmp_path / "codes", [[extra_row(0, question="who?", answer="a pear")]]), listening, "text")
    opened(write_lines(tmp_path / "t.jsonl", {"text": "a red apple"}), listening, "text")
    assert encoded == ["a pear", "a red apple"]
