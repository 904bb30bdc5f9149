"""Sequences token by token: control tokens in their places, text that stays text, images within."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.text.templates import IMAGE_MARK, Clip, Part, Templates, chosen_video_template, interleave
from lm_stage.text.tokenizer import HuggingFaceTokenizer, train_text_tokenizer
from shared.errors import RefusedInput, ShapeError, UsageError
from shared.tokens.layout import SURFACES
from shared.tokens.visual_tokens import ROWS, UNIVLA

CODES_HW = np.array([[5, 0, 63], [1, 2, 3]], np.uint16)
surface_texts = st.lists(
    st.sampled_from(
        [*SURFACES.values(), "<|visual token 000003|>", "<|extra_5|>", IMAGE_MARK, "2*3", " a red", "é", " "]
    )
).map("".join)


@pytest.fixture(scope="module")
def templates() -> Templates:
    vocabulary = train_text_tokenizer(["a red apple", "a green pear", "You are a helpful assistant. USER: "], 300, 64)
    return Templates(HuggingFaceTokenizer(json.loads(vocabulary.tokenizer_json), "", "here"), vocabulary.layout)


def text_ids(templates: Templates, text: str) -> list[int]:
    return templates.text_tokenizer.encode(text)


def image_ids(templates: Templates) -> list[int]:
    """CODES_HW as it stands within a sequence, written out."""
    layout = templates.layout
    v = layout.first_visual_token
    first_row, second_row = [v + 5, v, v + 63, layout.eol], [v + 1, v + 2, v + 3, layout.eol]
    opening = [layout.boi, *text_ids(templates, "2*3"), layout.img]
    return [*opening, *first_row, *second_row, layout.eof, layout.eoi]


def not_text(templates: Templates, ids: list[int]) -> list[int]:
    control = set(templates.layout.control_ids.values())
    return [i for i in ids if i in control or templates.layout.is_visual(i)]


def test_a_text_to_image_prompt_ends_with_size_and_img(templates: Templates) -> None:
    layout = templates.layout
    assert templates.image_prompt(["a red apple"], 12, 7) == [
        layout.bos,
        *text_ids(templates, "a red apple"),
        layout.boi,
        *text_ids(templates, "12*7"),
        layout.img,
    ]


def test_an_empty_prompt_is_size_alone(templates: Templates) -> None:
    layout = templates.layout
    size = [layout.boi, *text_ids(templates, "2*3"), layout.img]
    assert templates.image_prompt([""], 2, 3) == templates.image_prompt([], 2, 3) == [layout.bos, *size]


def test_the_chat_template_asks_the_assistant(templates: Templates) -> None:
    assert templates.understanding_prompt([CODES_HW, "what is this?"]) == [
        templates.layout.bos,
        *text_ids(templates, "You are a helpful assistant. USER: "),
        *image_ids(templates),
        *text_ids(templates, "what is this?. ASSISTANT:"),
    ]


def test_the_chat_template_without_an_image_is_one_text(templates: Templates) -> None:
    whole = "You are a helpful assistant. USER: what is red?. ASSISTANT:"
    assert templates.understanding_prompt(["what is red?"]) == [templates.layout.bos, *text_ids(templates, whole)]


def test_the_stage1_template_is_image_and_text(templates: Templates) -> None:
    expected = [templates.layout.bos, *image_ids(templates), *text_ids(templates, "a pear")]
    assert templates.understanding_prompt([CODES_HW, "a pear"], "stage1") == expected


def test_an_image_within_a_prompt_is_whole_and_in_its_place(templates: Templates) -> None:
    layout = templates.layout
    assert templates.image_prompt(["a red ", CODES_HW, CODES_HW, " pear"], 4, 5) == [
        layout.bos,
        *text_ids(templates, "a red "),
        *image_ids(templates),
        *image_ids(templates),
        *text_ids(templates, " pear"),
        layout.boi,
        *text_ids(templates, "4*5"),
        layout.img,
    ]


def with_rows(templates: Templates) -> Templates:
    return Templates(templates.text_tokenizer, templates.layout, ROWS)


def test_a_text_to_video_prompt_ends_with_frames_and_size(templates: Templates) -> None:
    layout = templates.layout
    size = [layout.boi, *text_ids(templates, "4*12*7"), layout.img]
    prompt = [layout.bos, *text_ids(templates, "a red apple"), *size]
    assert templates.video_prompt(["a red apple"], 4, 12, 7) == prompt
    assert with_rows(templates).video_prompt(["a red apple"], 4, 12, 7) == prompt
    assert templates.video_prompt([], 4, 12, 7) == [layout.bos, *size]


def test_a_clip_within_a_question_is_whole(templates: Templates) -> None:
    layout = templates.layout
    v, clip = layout.first_visual_token, Clip(np.stack([CODES_HW, CODES_HW[::-1]]))
    rows = [v + 5, v, v + 63], [v + 1, v + 2, v + 3]
    frames = [*rows[0], *rows[1], layout.eof, *rows[1], *rows[0], layout.eof]
    lines = [[*row, layout.eol] for row in rows]
    frames_of_rows = [*lines[0], *lines[1], layout.eof, *lines[1], *lines[0], layout.eof]
    for rendering, body in ((templates, frames), (with_rows(templates), frames_of_rows)):
        assert rendering.understanding_prompt([clip, "why?"], "stage1") == [
            *(layout.bos, layout.boi, *text_ids(templates, "2*2*3"), layout.img),
            *(*body, layout.eoi),
            *text_ids(templates, "why?"),
        ]


def test_a_clip_of_one_frame_is_no_image(templates: Templates) -> None:
    as_clip = templates.understanding_prompt([Clip(CODES_HW[None]), "why?"])
    assert as_clip != templates.understanding_prompt([CODES_HW, "why?"])
    assert templates.layout.eol not in as_clip


def test_forms_of_videos_are_chosen_by_name() -> None:
    assert [chosen_video_template(name) for name in ("univla", "rows")] == [UNIVLA, ROWS]
    with pytest.raises(UsageError, match="--video-template 'emu3': expected one of univla, rows"):
        chosen_video_template("emu3")


def test_neighbouring_texts_are_encoded_as_one(templates: Templates) -> None:
    apart = text_ids(templates, "a re") + text_ids(templates, "d apple")
    assert apart != text_ids(templates, "a red apple"), "the cut must matter"
    assert templates.image_prompt(["a re", "d apple"], 2, 3) == templates.image_prompt(["a red apple"], 2, 3)


@given(text=surface_texts)
def test_control_tokens_in_the_users_text_stay_text(templates: Templates, text: str) -> None:
    layout = templates.layout
    ids = templates.image_prompt([text], 2, 3)
    assert not_text(templates, ids) == [layout.bos, layout.boi, layout.img]
    assert templates.text_tokenizer.decode(ids) == text + "2*3"


@given(before=surface_texts, after=surface_texts, template=st.sampled_from(["chat", "stage1"]))
def test_control_tokens_around_an_image_stay_text(templates: Templates, before: str, after: str, template: str) -> None:
    ids = templates.understanding_prompt([before, CODES_HW, after], template)
    image = not_text(templates, image_ids(templates))
    assert not_text(templates, ids) == [templates.layout.bos, *image]
    around = ("You are a helpful assistant. USER: ", ". ASSISTANT:") if template == "chat" else ("", "")
    assert templates.text_tokenizer.decode(ids) == f"{around[0]}{before}2*3{after}{around[1]}"


def test_codes_of_a_larger_codebook_are_refused(templates: Templates) -> None:
    with pytest.raises(ShapeError, match=r"\[0, 64\)"):
        templates.image_prompt([np.array([[64]], np.uint16)], 2, 3)


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((1, 1), index, np.uint16) for index in range(count)]


def readable(parts: list[Part]) -> list[str | int]:
    """Images by their number."""
    return [int(part[0, 0]) if isinstance(part, np.ndarray) else part for part in parts]


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
def test_marks_and_images_must_be_as_many(text: str, images: int) -> None:
    with pytest.raises(RefusedInput, match=f"{text.count(IMAGE_MARK)} <image> marks in the text, {images}") as refused:
        interleave(text, numbered(images))
    assert refused.value.reason == "bad_images"
