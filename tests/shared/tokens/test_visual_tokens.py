"""Codes to tokens and back, and the grammar of a body against a slow reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.errors import ShapeError
from shared.tokens.grid_formats import (
    EMU35_IMAGE,
    GRID_FORMATS,
    IMAGE,
    ROWS,
    UNIVLA,
    VIDEO_FORMATS,
    GridFormat,
    RowEnds,
    grid_length,
)
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import VISUAL, body_template, grid_codes, grid_tokens
from tests.support.token_layouts import SMALL, layouts


def image_tokens(codes_HW: np.ndarray, layout: TokenLayout) -> np.ndarray:
    return grid_tokens(codes_HW[None], layout, IMAGE)


def video_tokens(codes_THW: np.ndarray, layout: TokenLayout, grid_format: GridFormat = UNIVLA) -> np.ndarray:
    return grid_tokens(codes_THW, layout, grid_format)


def image_role(offset: int, height: int, width: int) -> str:
    """Return the role of the token at an offset from IMG, which is at 0, by upstream's rules for constrained decoding.

    The end goes before the end of a row: at width 1, EOI's offset is a multiple of W + 1 too.
    """
    end = (width + 1) * height
    if offset > end:
        return {1: "eof", 2: "eoi", 3: "eos"}.get(offset - end, "pad")
    return "eol" if offset % (width + 1) == 0 else "visual"


def emu35_role(offset: int, height: int, width: int) -> str:
    """The same for Emu3.5, in which EOI is in the place of the last row's EOL."""
    if offset % (width + 1):
        return "visual"
    return "eoi" if offset == (width + 1) * height else "eol"


def video_role(offset: int, frames: int, height: int, width: int, form: GridFormat) -> str:
    """Return the role of a token of a video: frames end with EOF and, in the format `rows`, rows with EOL."""
    row = width + 1 if form is ROWS else width
    frame = height * row + 1
    if offset > frames * frame:
        return "eoi" if offset == frames * frame + 1 else "pad"
    if offset % frame == 0:
        return "eof"
    return "eol" if form is ROWS and offset % frame % row == 0 else "visual"


@dataclass(frozen=True)
class Body:
    """Codes, and the format in which to write them."""

    codes_THW: np.ndarray
    layout: TokenLayout
    form: GridFormat

    @property
    def tokens(self) -> np.ndarray:
        return grid_tokens(self.codes_THW, self.layout, self.form)

    @property
    def template(self) -> np.ndarray:
        return body_template(*self.codes_THW.shape, self.layout, self.form)

    def parsed(self, tokens: object) -> np.ndarray:
        return grid_codes(tokens, *self.codes_THW.shape, self.layout, self.form)

    def role(self, offset: int) -> str:
        if self.form.is_video:
            return video_role(offset, *self.codes_THW.shape, self.form)
        return (image_role if self.form is IMAGE else emu35_role)(offset, *self.codes_THW.shape[1:])

    @property
    def roles(self) -> list[str]:
        """The slow reference: a role for every token, up to and with EOI."""
        roles: list[str] = []
        while "eoi" not in roles:
            roles.append(self.role(len(roles) + 1))
        return roles

    def fits(self, token: int, role: str) -> bool:
        if role == "visual":
            return 0 <= token - self.layout.first_visual_token < self.layout.codebook_size
        return token == getattr(self.layout, role)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    layout, form = draw(layouts()), draw(st.sampled_from(list(GRID_FORMATS.values())))
    frames = st.integers(1, 4) if form.is_video else st.just(1)
    shape = draw(st.tuples(frames, st.integers(1, 6), st.integers(1, 6)))
    top = layout.codebook_size - 1
    codes = st.integers(0, top) | st.sampled_from([0, top])
    return Body(draw(arrays(np.uint32, shape, elements=codes)), layout, form)


def test_image_body_by_hand() -> None:
    codes = np.array([[0, 1, 2], [5, 6, 7]], np.uint16)
    tokens = image_tokens(codes, SMALL)
    assert tokens.tolist() == [10, 11, 12, 18, 15, 16, 17, 18, 19, 9]
    assert tokens.dtype == np.int32
    assert codes.tolist() == [[0, 1, 2], [5, 6, 7]]


def test_video_body_by_hand() -> None:
    codes = np.array([[[0, 1]], [[6, 7]]], np.uint16)
    tokens = video_tokens(codes, SMALL)
    assert tokens.tolist() == [10, 11, 19, 16, 17, 19, 9]
    assert tokens.dtype == np.int32
    assert codes.tolist() == [[[0, 1]], [[6, 7]]]


def test_video_body_of_rows_by_hand() -> None:
    codes = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], np.uint16)
    first, second = [10, 11, 18, 12, 13, 18, 19], [14, 15, 18, 16, 17, 18, 19]
    assert video_tokens(codes, SMALL, ROWS).tolist() == [*first, *second, 9]
    assert grid_length(2, 2, 2, ROWS) == 15


def test_image_body_of_emu35_by_hand() -> None:
    codes = np.array([[[0, 1, 2], [5, 6, 7]]], np.uint32)
    tokens = [10, 11, 12, 18, 15, 16, 17, 9]
    assert grid_tokens(codes, SMALL, EMU35_IMAGE).tolist() == tokens
    assert grid_length(1, 2, 3, EMU35_IMAGE) == 8
    parsed = grid_codes(tokens, 1, 2, 3, SMALL, EMU35_IMAGE)
    assert (parsed.dtype, parsed.tolist()) == (np.int32, codes.tolist())


def test_an_image_is_a_frame_of_rows() -> None:
    codes = np.array([[0, 1, 2], [5, 6, 7]], np.uint16)
    assert image_tokens(codes, SMALL).tolist() == video_tokens(codes[None], SMALL, ROWS).tolist()


def test_forms_of_videos_by_name() -> None:
    """Datasets record the names, so the formats behind them never change."""
    univla, rows = GridFormat("univla", "T*H*W", RowEnds.NONE, True), GridFormat("rows", "T*H*W", RowEnds.ALL, True)
    assert dict(VIDEO_FORMATS) == {"univla": univla, "rows": rows}
    assert list(GRID_FORMATS) == ["image", "emu3.5", "univla", "rows"]


def test_the_size_stands_before_the_body_as_text() -> None:
    assert [form.size_text(4, 12, 7) for form in (UNIVLA, ROWS)] == ["4*12*7", "4*12*7"]
    assert [form.size_text(1, 12, 7) for form in (IMAGE, EMU35_IMAGE)] == ["12*7", "12*7"]


def test_lengths_by_hand() -> None:
    assert grid_length(1, 90, 90, IMAGE) == 8193 - 1  # the published count includes EOS
    assert grid_length(1, 64, 64, IMAGE) == 4163 - 1
    assert grid_length(1, 2, 3, IMAGE) == 10
    assert grid_length(2, 1, 2, UNIVLA) == 7


@given(bodies())
def test_grammar_is_the_constrained_decoding_rule(body: Body) -> None:
    roles = body.roles
    assert body.template.tolist() == [VISUAL if role == "visual" else getattr(body.layout, role) for role in roles]
    tokens = body.tokens.tolist()
    assert len(tokens) == len(roles)
    assert all(body.fits(token, role) for token, role in zip(tokens, roles))
    visual = [token - body.layout.first_visual_token for token, role in zip(tokens, roles) if role == "visual"]
    assert visual == body.codes_THW.ravel().tolist()


@given(bodies(), st.sampled_from([np.int32, np.int64, np.uint32, list]))
def test_bodies_are_parsed_to_their_codes(body: Body, kind: type) -> None:
    tokens = body.tokens
    codes = body.parsed(tokens.tolist() if kind is list else tokens.astype(kind))
    np.testing.assert_array_equal(codes, body.codes_THW)
    codes[:] = 0
    np.testing.assert_array_equal(body.tokens, tokens, "the parsed codes are a copy")


@given(bodies(), st.data())
def test_damaged_bodies_are_refused(body: Body, data: st.DataObject) -> None:
    """A token replaced by one of another role, or a token lost or repeated."""
    tokens, roles = body.tokens, body.roles
    at = data.draw(st.integers(0, len(tokens) - 1))
    damaged = tokens.copy()
    damaged[at] = body.layout.pad if roles[at] == "visual" else body.layout.first_visual_token
    role = "a visual token from" if roles[at] == "visual" else roles[at].upper()
    with pytest.raises(ShapeError, match=rf"token {at}: expected {role} .*got id {damaged[at]}; 1 of {len(tokens)} "):
        body.parsed(damaged)
    for other in (np.delete(tokens, at), np.insert(tokens, at, tokens[at])):
        with pytest.raises(ShapeError, match=rf"expected {len(tokens)} token ids, got int32 \({len(other)},\)"):
            body.parsed(other)


@given(bodies())
def test_bodies_of_another_format_are_refused(body: Body) -> None:
    """Except where the two formats write the same tokens, as for videos and images of one frame and column."""
    for form in GRID_FORMATS.values():
        if body.codes_THW.shape[0] > 1 and not form.is_video:
            continue
        other = Body(body.codes_THW, body.layout, form)
        if other.roles == body.roles:
            np.testing.assert_array_equal(other.parsed(body.tokens), body.codes_THW)
        else:
            with pytest.raises(ShapeError, match=f"body of a grid of .*{form.name}"):
                other.parsed(body.tokens)


@pytest.mark.parametrize("tokens", [np.zeros(8), np.zeros((8, 1), int), [], ["a"] * 8, np.full(8, True)])
def test_what_is_no_sequence_of_ids_is_refused(tokens: object) -> None:
    with pytest.raises(ShapeError, match="expected 8 token ids"):
        grid_codes(tokens, 1, 2, 3, SMALL, EMU35_IMAGE)


def test_images_have_one_frame_and_grids_a_code() -> None:
    for form in (IMAGE, EMU35_IMAGE):
        with pytest.raises(ShapeError, match="expected one frame, because it is one of images; got 2"):
            grid_tokens(np.zeros((2, 3, 4), int), SMALL, form)
    with pytest.raises(ShapeError, match="grid of 1 × 0 × 4 codes: expected at least one code"):
        grid_codes([9], 1, 0, 4, SMALL, EMU35_IMAGE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint64, ">i2", np.int64])
def test_codes_of_any_integer_type_and_order_are_accepted(dtype: object) -> None:
    codes = np.arange(6).reshape(2, 3)
    expected = [10, 11, 12, 18, 13, 14, 15, 18, 19, 9]
    assert image_tokens(codes.astype(dtype), SMALL).tolist() == expected
    assert image_tokens(np.asfortranarray(codes.astype(dtype)), SMALL).tolist() == expected
    assert video_tokens(codes.astype(dtype).reshape(1, 2, 3), SMALL).tolist() == [10, 11, 12, 13, 14, 15, 19, 9]


@pytest.mark.parametrize("make", [image_tokens, video_tokens])
@pytest.mark.parametrize("value", [-1, 8, 2**15 - 1, 2**40, -(2**40)])
def test_codes_out_of_range_are_refused(make: object, value: int) -> None:
    codes = np.zeros((2, 3, 4) if make is video_tokens else (3, 4), np.int64)
    make(codes, SMALL)
    codes[..., -1, 2] = value
    with pytest.raises(ShapeError, match=rf"expected values in \[0, 8\), got .*{value}"):
        make(codes, SMALL)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((3, 4), np.float32),
        np.zeros((3, 4), bool),
        np.zeros((3, 4), complex),
        np.zeros((3, 4), object),
        np.full((3, 4), "0"),
        np.zeros((0, 4), np.uint16),
        np.zeros((3, 0), np.uint16),
    ],
)
def test_codes_of_another_type_and_empty_ones_are_refused(codes: np.ndarray) -> None:
    message = "expected integers of rank"
    with pytest.raises(ShapeError, match=message):
        image_tokens(codes, SMALL)
    with pytest.raises(ShapeError, match=message):
        video_tokens(codes[None], SMALL)


@pytest.mark.parametrize("rank", range(5))
def test_codes_of_another_rank_are_refused(rank: int) -> None:
    codes = np.zeros((2,) * rank, np.uint16)
    if rank == 3:
        assert grid_tokens(codes, SMALL, UNIVLA).size
    else:
        with pytest.raises(ShapeError, match="expected integers of rank 3"):
            grid_tokens(codes, SMALL, UNIVLA)
