"""Sequences token by token: control tokens where they belong, text that stays text, images within."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.text.prompting import PLAIN
from lm_stage.text.renderer import IMAGE_MARK, CodeGrid, Part, SequenceRenderer, interleave
from shared.errors import RefusedInput, ShapeError
from shared.tokens.grid_formats import IMAGE, ROWS
from shared.tokens.layout import SURFACES
from tests.support.renderers import small_renderer

CODES_HW = np.array([[5, 0, 63], [1, 2, 3]], np.uint16)
IMAGE_GRID = CodeGrid.image(CODES_HW)
surface_texts = st.lists(
    st.sampled_from(
        [*SURFACES.values(), "<|visual token 000003|>", "<|extra_5|>", IMAGE_MARK, "2*3", " a red", "é", " "]
    )
).map("".join)


@pytest.fixture(scope="module")
def renderer() -> SequenceRenderer:
    return small_renderer(["a red apple", "a green pear", "You are a helpful assistant. USER: "], 64, text_ids=300)


def text_ids(renderer: SequenceRenderer, text: str) -> list[int]:
    return renderer.text_tokenizer.encode(text)


def image_ids(renderer: SequenceRenderer) -> list[int]:
    """Write out CODES_HW as it appears within a sequence."""
    layout = renderer.layout
    v = layout.first_visual_token
    first_row, second_row = [v + 5, v, v + 63, layout.eol], [v + 1, v + 2, v + 3, layout.eol]
    header = [layout.boi, *text_ids(renderer, "2*3"), layout.img]
    return [*header, *first_row, *second_row, layout.eof, layout.eoi]


def image_prompt(renderer: SequenceRenderer, caption: list[Part], height: int, width: int) -> list[int]:
    return renderer.generation_prompt(caption, IMAGE, 1, height, width).tolist()


def video_prompt(renderer: SequenceRenderer, caption: list[Part], frames: int, height: int, width: int) -> list[int]:
    return renderer.generation_prompt(caption, renderer.video_format, frames, height, width).tolist()


def question_prompt(renderer: SequenceRenderer, question: list[Part], template: str = "chat") -> list[int]:
    return renderer.question_prompt(question, PLAIN.question_template(template)).tolist()


def not_text(renderer: SequenceRenderer, ids: list[int]) -> list[int]:
    control = set(renderer.layout.control_ids.values())
    return [i for i in ids if i in control or renderer.layout.is_visual(i)]


def test_a_text_to_image_prompt_ends_with_size_and_img(renderer: SequenceRenderer) -> None:
    layout = renderer.layout
    assert image_prompt(renderer, ["a red apple"], 12, 7) == [
        layout.bos,
        *text_ids(renderer, "a red apple"),
        layout.boi,
        *text_ids(renderer, "12*7"),
        layout.img,
    ]


def test_an_empty_prompt_is_size_alone(renderer: SequenceRenderer) -> None:
    layout = renderer.layout
    size = [layout.boi, *text_ids(renderer, "2*3"), layout.img]
    assert image_prompt(renderer, [""], 2, 3) == image_prompt(renderer, [], 2, 3) == [layout.bos, *size]


def test_the_chat_template_asks_the_assistant(renderer: SequenceRenderer) -> None:
    assert question_prompt(renderer, [IMAGE_GRID, "what is this?"]) == [
        renderer.layout.bos,
        *text_ids(renderer, "You are a helpful assistant. USER: "),
        *image_ids(renderer),
        *text_ids(renderer, "what is this?. ASSISTANT:"),
    ]


def test_the_chat_template_without_an_image_is_one_text(renderer: SequenceRenderer) -> None:
    whole = "You are a helpful assistant. USER: what is red?. ASSISTANT:"
    assert question_prompt(renderer, ["what is red?"]) == [renderer.layout.bos, *text_ids(renderer, whole)]


def test_the_stage1_template_is_image_and_text(renderer: SequenceRenderer) -> None:
    expected = [renderer.layout.bos, *image_ids(renderer), *text_ids(renderer, "a pear")]
    assert question_prompt(renderer, [IMAGE_GRID, "a pear"], "stage1") == expected


def test_an_image_within_a_prompt_is_rendered_where_it_occurs(renderer: SequenceRenderer) -> None:
    layout = renderer.layout
    assert image_prompt(renderer, ["a red ", IMAGE_GRID, IMAGE_GRID, " pear"], 4, 5) == [
        layout.bos,
        *text_ids(renderer, "a red "),
        *image_ids(renderer),
        *image_ids(renderer),
        *text_ids(renderer, " pear"),
        layout.boi,
        *text_ids(renderer, "4*5"),
        layout.img,
    ]


def with_rows(renderer: SequenceRenderer) -> SequenceRenderer:
    return SequenceRenderer(renderer.text_tokenizer, renderer.layout, ROWS)


def test_a_text_to_video_prompt_ends_with_frames_and_size(renderer: SequenceRenderer) -> None:
    layout = renderer.layout
    size = [layout.boi, *text_ids(renderer, "4*12*7"), layout.img]
    prompt = [layout.bos, *text_ids(renderer, "a red apple"), *size]
    assert video_prompt(renderer, ["a red apple"], 4, 12, 7) == prompt
    assert video_prompt(with_rows(renderer), ["a red apple"], 4, 12, 7) == prompt
    assert video_prompt(renderer, [], 4, 12, 7) == [layout.bos, *size]


def test_a_clip_within_a_question_is_whole(renderer: SequenceRenderer) -> None:
    layout = renderer.layout
    v, clip = layout.first_visual_token, CodeGrid.video(np.stack([CODES_HW, CODES_HW[::-1]]))
    rows = [v + 5, v, v + 63], [v + 1, v + 2, v + 3]
    frames = [*rows[0], *rows[1], layout.eof, *rows[1], *rows[0], layout.eof]
    lines = [[*row, layout.eol] for row in rows]
    frames_of_rows = [*lines[0], *lines[1], layout.eof, *lines[1], *lines[0], layout.eof]
    for rendering, body in ((renderer, frames), (with_rows(renderer), frames_of_rows)):
        assert question_prompt(rendering, [clip, "why?"], "stage1") == [
            *(layout.bos, layout.boi, *text_ids(renderer, "2*2*3"), layout.img),
            *(*body, layout.eoi),
            *text_ids(renderer, "why?"),
        ]


def test_a_clip_of_one_frame_is_no_image(renderer: SequenceRenderer) -> None:
    as_clip = question_prompt(renderer, [CodeGrid.video(CODES_HW[None]), "why?"])
    assert as_clip != question_prompt(renderer, [IMAGE_GRID, "why?"])
    assert renderer.layout.eol not in as_clip


def test_adjacent_texts_are_encoded_as_one(renderer: SequenceRenderer) -> None:
    apart = text_ids(renderer, "a re") + text_ids(renderer, "d apple")
    assert apart != text_ids(renderer, "a red apple"), "the cut must matter"
    assert image_prompt(renderer, ["a re", "d apple"], 2, 3) == image_prompt(renderer, ["a red apple"], 2, 3)


@given(text=surface_texts)
def test_control_tokens_in_the_users_text_stay_text(renderer: SequenceRenderer, text: str) -> None:
    layout = renderer.layout
    ids = image_prompt(renderer, [text], 2, 3)
    assert not_text(renderer, ids) == [layout.bos, layout.boi, layout.img]
    assert renderer.text_tokenizer.decode(ids) == text + "2*3"


@given(before=surface_texts, after=surface_texts, template=st.sampled_from(["chat", "stage1"]))
def test_control_tokens_around_an_image_stay_text(
    renderer: SequenceRenderer, before: str, after: str, template: str
) -> None:
    ids = question_prompt(renderer, [before, IMAGE_GRID, after], template)
    image = not_text(renderer, image_ids(renderer))
    assert not_text(renderer, ids) == [renderer.layout.bos, *image]
    around = ("You are a helpful assistant. USER: ", ". ASSISTANT:") if template == "chat" else ("", "")
    assert renderer.text_tokenizer.decode(ids) == f"{around[0]}{before}2*3{after}{around[1]}"


def test_codes_of_a_larger_codebook_are_refused(renderer: SequenceRenderer) -> None:
    with pytest.raises(ShapeError, match=r"\[0, 64\)"):
        image_prompt(renderer, [CodeGrid.image(np.array([[64]], np.uint16))], 2, 3)


def numbered(count: int) -> list[CodeGrid]:
    return [CodeGrid.image(np.full((1, 1), index, np.uint16)) for index in range(count)]


def readable(parts: list[Part]) -> list[str | int]:
    """Replace every image with its number."""
    return [int(part.codes_THW[0, 0, 0]) if isinstance(part, CodeGrid) else part for part in parts]


@pytest.mark.parametrize(
    ("text", "images", "parts"),
    [
        ("a red apple", 0, ["a red apple"]),
        ("a red apple", 2, [0, 1, "a red apple"]),
        ("like <image> in red", 1, ["like ", 0, " in red"]),
        ("<image>first<image>", 2, [0, "first", 1]),
        ("<image><image>", 2, [0, 1]),
        ("<image", 1, [0, "<image"]),
    ],
)
def test_images_go_where_the_marks_are(text: str, images: int, parts: list[str | int]) -> None:
    assert readable(interleave(text, numbered(images))) == parts


@given(st.lists(st.sampled_from([IMAGE_MARK, "a", " red", "<", "image>", "<|image start|>"])).map("".join))
def test_every_mark_is_the_next_image_and_no_text_is_lost(text: str) -> None:
    marks = text.count(IMAGE_MARK)
    parts = readable(interleave(text, numbered(marks)))
    assert [part for part in parts if isinstance(part, int)] == list(range(marks))
    assert "".join(IMAGE_MARK if isinstance(part, int) else part for part in parts) == text


@pytest.mark.parametrize(("text", "images"), [("<image>", 0), ("<image>", 2), ("<image> <image>", 1)])
def test_as_many_images_as_marks_are_required(text: str, images: int) -> None:
    with pytest.raises(RefusedInput, match=f"{text.count(IMAGE_MARK)} <image> marks in the text, {images}") as refused:
        interleave(text, numbered(images))
    assert refused.value.reason == "bad_images"
