"""Templates as data: looked up by name, with the published text."""

from __future__ import annotations

import pytest

from lm_stage.text.templates import CHAT, video_format_named
from shared.errors import UsageError
from shared.tokens.grid_formats import ROWS, UNIVLA


def test_video_formats_are_looked_up_by_name() -> None:
    assert [video_format_named(name) for name in ("univla", "rows")] == [UNIVLA, ROWS]
    with pytest.raises(UsageError, match="--video-template 'emu3': expected one of univla, rows"):
        video_format_named("emu3")


def test_only_the_first_question_without_an_image_continues_the_opening() -> None:
    assert CHAT.question_text("q") == "You are a helpful assistant. USER: q. ASSISTANT:"
    assert CHAT.question_text("q", follows_grid=True) == "q. ASSISTANT:"
    assert CHAT.question_text("q", turn=1, follows_grid=True) == " USER: q. ASSISTANT:"


def test_the_system_prompt_can_be_replaced() -> None:
    assert CHAT.opening() == "You are a helpful assistant. USER: "
    assert CHAT.opening("Be brief.") == "Be brief. USER: "
