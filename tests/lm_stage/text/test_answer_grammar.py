"""The grammar of answers in both directions: what is written is accepted and read back, and what is allowed is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lm_stage.text.answer_grammar import CODE, SIZE, TEXT, AnswerGrammar, AnswerState, DecodedPart, answer_parts
from lm_stage.text.prompting import EMU35, PLAIN
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from shared.errors import CheckpointError
from tests.support.renderers import small_renderer

CODEBOOK_SIZE = 64
RENDERER = small_renderer(["a red apple", "a green pear"] * 3, CODEBOOK_SIZE, prompting=EMU35)
GRAMMAR = AnswerGrammar.of(RENDERER)
LAYOUT = GRAMMAR.layout
CLOSED = {"reasoning": ("bog", "eog"), "image_reasoning": ("boc", "eoc")}

texts = st.text("a redpl.?2*é", min_size=1, max_size=9).filter(str.strip)
images = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: arrays(np.uint16, size, elements=st.integers(0, CODEBOOK_SIZE - 1))
)
parts = st.one_of(
    st.builds(DecodedPart, st.sampled_from(["text", *CLOSED]), texts),
    st.builds(lambda codes_HW: DecodedPart("image", codes_HW=codes_HW), images),
)


def without_adjacent_texts(answer: Sequence[DecodedPart]) -> list[DecodedPart]:
    """Two texts in a row would be one."""
    return [one for n, one in enumerate(answer) if n == 0 or (one.kind, answer[n - 1].kind) != ("text", "text")]


def part_ids(part: DecodedPart) -> list[int]:
    if part.codes_HW is not None:
        return np.concatenate(RENDERER.header_and_body(CodeGrid.image(part.codes_HW))).tolist()
    ids = RENDERER.encode(part.text or "").tolist()
    if part.kind == "text":
        return ids
    begin, end = (getattr(LAYOUT, role) for role in CLOSED[part.kind])
    return [begin, *ids, end]


def assert_same(found: Sequence[DecodedPart], expected: Sequence[DecodedPart]) -> None:
    assert [(one.kind, one.text) for one in found] == [(one.kind, one.text) for one in expected]
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one.codes_HW, other.codes_HW)


def is_allowed(state: AnswerState, token: int) -> bool:
    choice = state.choice()
    if choice == CODE:
        return LAYOUT.is_visual(token)
    if choice >= 0:
        return token == choice
    is_text = token < LAYOUT.first_visual_token and token not in LAYOUT.control_ids.values()
    return token in state.allowed_ids() or (choice == TEXT and is_text)


@settings(deadline=None)
@given(st.lists(parts, max_size=6).map(without_adjacent_texts), st.sampled_from(["ess", "eos"]))
def test_answers_that_are_written_are_accepted_and_read_back(answer: list[DecodedPart], end: str) -> None:
    tokens = [*(token for part in answer for token in part_ids(part)), getattr(LAYOUT, end)]
    state = AnswerState(GRAMMAR, max_tokens=10_000, repeats_size=False)
    for token in tokens:
        assert state.finish_reason is None
        assert is_allowed(state, token), (token, state.choice())
        state.take(token)
    assert (state.finish_reason, state.tokens) == ("complete", tokens)
    assert_same(list(answer_parts(tokens, GRAMMAR, RENDERER.text_tokenizer.decode)), answer)


@settings(deadline=None)
@given(st.data(), st.integers(1, 120), st.sampled_from([None, (2, 3)]), st.booleans())
def test_whatever_is_allowed_is_read(data: Any, limit: int, size: tuple[int, int] | None, repeats: bool) -> None:
    state = AnswerState(GRAMMAR, limit, size, repeats)
    while state.finish_reason is None:
        choice = state.choice()
        if choice in (TEXT, SIZE):
            ordinary = [GRAMMAR.digits[2], GRAMMAR.times] if choice == TEXT else []
            token = data.draw(st.sampled_from([*ordinary, *state.allowed_ids()]))
        else:
            token = LAYOUT.first_visual_token + len(state.tokens) % CODEBOOK_SIZE if choice == CODE else choice
        state.take(token)
    assert len(state.tokens) <= limit
    found = [one for one in answer_parts(state.tokens, GRAMMAR, RENDERER.text_tokenizer.decode)]
    shapes = [one.codes_HW.shape for one in found if one.codes_HW is not None]
    assert len(shapes) == state.tokens.count(LAYOUT.eoi)
    if size or repeats:
        assert len({*shapes, *([size] if size else [])}) <= 1


def image_tokens(height: int, width: int) -> list[int]:
    return part_ids(DecodedPart("image", codes_HW=np.zeros((height, width), np.uint16)))


def take(state: AnswerState, tokens: Sequence[int]) -> AnswerState:
    for token in tokens:
        assert is_allowed(state, token), (token, state.choice())
        state.take(token)
    return state


def test_a_forced_size_leaves_no_choice() -> None:
    state = AnswerState(GRAMMAR, 100, size=(2, 3))
    for _ in range(2):
        begin, *header = [*RENDERER.header(EMU35.image_format, 1, 2, 3).tolist()]
        take(state, [begin])
        for token in header:
            assert state.choice() == token
            state.take(token)
        for offset, code in enumerate([CODE, CODE, CODE, LAYOUT.eol, CODE, CODE, CODE, LAYOUT.eoi]):
            assert state.choice() == code, offset
            state.take(LAYOUT.first_visual_token if code == CODE else code)


def test_later_images_repeat_the_size_of_the_first() -> None:
    state = take(AnswerState(GRAMMAR, 200), image_tokens(1, 2))
    assert state.size == (1, 2)
    take(state, [LAYOUT.boi])
    assert state.choice() == GRAMMAR.digits[1]
    free = take(AnswerState(GRAMMAR, 200, repeats_size=False), [*image_tokens(1, 2), LAYOUT.boi])
    assert free.choice() == SIZE


def test_a_size_has_digits_without_leading_zeros_and_an_end() -> None:
    digits, times, img = list(GRAMMAR.digits), GRAMMAR.times, LAYOUT.img
    assert GRAMMAR.next_size_ids([]) == digits[1:]
    assert GRAMMAR.next_size_ids([digits[4]]) == [*digits, times]
    assert GRAMMAR.next_size_ids([digits[4]] * 3) == [times]
    assert GRAMMAR.next_size_ids([digits[4], times]) == digits[1:]
    assert GRAMMAR.next_size_ids([digits[4], times, digits[1]]) == [*digits, img]
    assert GRAMMAR.next_size_ids([digits[4], times, *[digits[1]] * 3]) == [img]


def test_an_image_without_room_ends_the_answer() -> None:
    whole = image_tokens(2, 3)
    assert take(AnswerState(GRAMMAR, len(whole)), whole).finish_reason == "length"
    for size in ((2, 3), None):
        state = AnswerState(GRAMMAR, len(whole) - 1, size)
        for token in whole:
            if state.finish_reason is None:
                take(state, [token])
        assert state.finish_reason == "length"
        assert list(answer_parts(state.tokens, GRAMMAR, RENDERER.text_tokenizer.decode)) == []


def test_images_and_ends_wait_until_reasoning_is_closed() -> None:
    state = take(AnswerState(GRAMMAR, 100), [LAYOUT.bog])
    assert state.allowed_ids() == [LAYOUT.eog]
    take(state, [*RENDERER.encode("a red").tolist(), LAYOUT.eog])
    assert set(state.allowed_ids()) == {LAYOUT.boi, LAYOUT.bog, LAYOUT.boc, LAYOUT.ess, LAYOUT.eos}


def test_the_unconditional_stream_takes_images_only() -> None:
    text, image = RENDERER.encode("a pear").tolist(), image_tokens(1, 2)
    state, taken = AnswerState(GRAMMAR, 100), []
    for token in [*text, *image, *text, *image, LAYOUT.ess]:
        state.take(token)
        taken += [token] if state.is_in_image else []
    assert taken == [*image, *image]


def test_models_without_emu35s_tokens_have_answers_too() -> None:
    renderer = small_renderer(["a red apple"] * 3, CODEBOOK_SIZE, prompting=PLAIN)
    grammar = AnswerGrammar.of(renderer)
    assert grammar.after_text(None) == [grammar.layout.boi, grammar.layout.eos]
    assert grammar.span_ids == set()


def test_a_vocabulary_that_joins_digits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = SequenceRenderer(RENDERER.text_tokenizer, LAYOUT, prompting=EMU35)
    encode = joined.encode
    monkeypatch.setattr(joined, "encode", lambda text: encode(text)[:1] if len(text) > 1 else encode(text))
    with pytest.raises(CheckpointError, match="one token for each digit"):
        AnswerGrammar.of(joined)
