"""How model families are prompted: the published texts, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lm_stage.text.prompting import EMU3, EMU35, PLAIN, PROMPTINGS, Prompting, check_prompting
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from shared.errors import CheckpointError, UsageError
from shared.tokens.grid_formats import EMU35_IMAGE
from tests.support.renderers import small_renderer
from tests.support.token_layouts import REAL, SMALL

CODES_HW = np.array([[5, 0, 63], [1, 2, 3]], np.uint16)


@pytest.fixture(scope="module")
def renderer() -> SequenceRenderer:
    return small_renderer(["a red apple", EMU35.text_to_image.question_text("")] * 3, 64, 300, EMU35)


def image_ids(renderer: SequenceRenderer) -> list[int]:
    """CODES_HW as Emu3.5 writes an image: no EOL after the last row, and no EOF."""
    layout, v = renderer.layout, renderer.layout.first_visual_token
    header = [layout.boi, *renderer.encode("2*3").tolist(), layout.img]
    return [*header, v + 5, v, v + 63, layout.eol, v + 1, v + 2, v + 3, layout.eoi]


def test_emu35_draws_after_its_system_prompt_and_bss(renderer: SequenceRenderer) -> None:
    text = "You are a helpful assistant for t2i task. USER: a red apple ASSISTANT: "
    layout = renderer.layout
    assert renderer.generation_prompt(["a red apple"], EMU35_IMAGE, 1, 2, 3).tolist() == [
        layout.bos,
        *renderer.encode(text).tolist(),
        layout.bss,
        layout.boi,
        *renderer.encode("2*3").tolist(),
        layout.img,
    ]


def test_emu35_edits_images_before_the_instruction(renderer: SequenceRenderer) -> None:
    layout, image = renderer.layout, CodeGrid.image(CODES_HW)
    prompt = renderer.question_prompt([image, "make it blue"], EMU35.image_editing).tolist()
    before, after = "You are a helpful assistant for x2i task. USER: ", "make it blue ASSISTANT: "
    assert prompt == [
        layout.bos,
        *renderer.encode(before).tolist(),
        *image_ids(renderer),
        *renderer.encode(after).tolist(),
        layout.bss,
    ]


@pytest.mark.parametrize("has_image", [False, True])
def test_the_unconditional_stream_of_emu35_keeps_images_only(renderer: SequenceRenderer, has_image: bool) -> None:
    layout, images = renderer.layout, [CodeGrid.image(CODES_HW)] if has_image else []
    around = ["You are a helpful assistant. USER: ", " ASSISTANT: "]
    whole = [*renderer.encode("You are a helpful assistant. USER:  ASSISTANT: ")]
    parts = [*renderer.encode(around[0]), *image_ids(renderer), *renderer.encode(around[1])]
    prompt = renderer.question_prompt([*images, ""], EMU35.unconditional).tolist()
    assert prompt == [layout.bos, *(parts if has_image else whole), layout.bss]


def test_stories_have_their_images_after_the_text() -> None:
    story = EMU35.task("story")
    assert story.opening() == "You are a helpful assistant for story task. USER: "
    assert (story.images_first, EMU35.image_editing.images_first) == (False, True)


@pytest.mark.parametrize(
    ("prompting", "tasks", "templates"),
    [
        (PLAIN, "image, chat", "chat, stage1"),
        (EMU3, "image, chat", "chat, stage1"),
        (EMU35, "image, chat, t2i, x2i, story, howto, explore, vla", "chat"),
    ],
)
def test_errors_recommend_what_the_prompting_has(prompting: Prompting, tasks: str, templates: str) -> None:
    with pytest.raises(UsageError, match=f"--task bare: expected one of {tasks} with --prompting {prompting.name}"):
        prompting.task("bare")
    with pytest.raises(UsageError, match=f"--template t2i: expected one of {templates} with --prompting"):
        prompting.question_template("t2i")


def test_emu3_adds_what_was_published_for_its_images() -> None:
    assert EMU3.suffix == " masterpiece, film grained, best quality."
    assert EMU3.negative_prompt.startswith("lowres, ")
    assert (PLAIN.suffix, PLAIN.negative_prompt, PLAIN.codes.top_k, PLAIN.text_to_image_guidance) == ("", "", 2048, 3.0)


def test_published_sampling_of_emu35() -> None:
    assert (EMU35.codes.top_k, EMU35.codes.top_p) == (5120, 1.0)
    assert (EMU35.text.top_k, EMU35.text.top_p) == (1024, 0.9)
    assert (EMU35.text_to_image_guidance, EMU35.image_editing_guidance) == (5.0, 3.0)


def test_published_grids_have_their_ratio_and_area() -> None:
    sizes = dict(EMU35.sizes)
    assert len(sizes) == 9
    assert (sizes["16:9"], sizes["9:16"]) == ((47, 85), (85, 47))
    for ratio, (height, width) in sizes.items():
        w, h = map(int, ratio.split(":"))
        assert abs(math.log(width / height / (w / h))) < 0.03
        assert abs(height * width * 16**2 / EMU35.area - 1) < 0.04


@pytest.mark.parametrize("prompting", PROMPTINGS.values(), ids=PROMPTINGS)
def test_a_vocabulary_without_the_tokens_around_answers_is_refused(prompting: Prompting) -> None:
    if prompting is EMU35:
        for layout in (REAL, SMALL):
            with pytest.raises(CheckpointError, match=r"model: --prompting emu35 needs bss \(<\|extra_100\|>\), ess"):
                prompting.check_roles(layout, "model")
    else:
        prompting.check_roles(REAL, "model")


def test_names_are_checked() -> None:
    check_prompting("auto")
    with pytest.raises(UsageError, match="--prompting 'emu4': expected one of auto, plain, emu3, emu35"):
        check_prompting("emu4")
