"""Images go where the marks in a text are, and no text is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.text.parts import IMAGE_MARK, CodeGrid, Part, interleave
from shared.errors import RefusedInput


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
