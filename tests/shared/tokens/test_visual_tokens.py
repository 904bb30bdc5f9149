"""Codes to tokens and back, the grammar of a body against a slow reference, and what a layout refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.errors import CheckpointError, ShapeError
from shared.tokens.grid_formats import IMAGE, ROWS, UNIVLA, VIDEO_FORMATS, GridFormat, grid_length
from shared.tokens.layout import SURFACES, TokenLayout
from shared.tokens.visual_tokens import VISUAL, body_template, grid_tokens

CONTROL = ["pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof"]

# Visual tokens 10 to 17, control tokens on both sides and next to them.
SMALL = TokenLayout(pad=0, bos=1, eos=2, img=3, boi=4, eoi=9, eol=18, eof=19, first_visual_token=10, codebook_size=8)
REAL = TokenLayout(
    pad=151643,
    bos=151849,
    eos=151850,
    img=151851,
    boi=151852,
    eoi=151853,
    eol=151846,
    eof=151847,
    first_visual_token=151854,
    codebook_size=32768,
)


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
    is_video: bool
    form: GridFormat = UNIVLA

    @property
    def tokens(self) -> np.ndarray:
        if self.is_video:
            return video_tokens(self.codes_THW, self.layout, self.form)
        return image_tokens(self.codes_THW[0], self.layout)

    @property
    def template(self) -> np.ndarray:
        if self.is_video:
            return body_template(*self.codes_THW.shape, self.layout, self.form)
        return body_template(*self.codes_THW.shape, self.layout, IMAGE)

    @property
    def roles(self) -> list[str]:
        """The slow reference: a role for every token, up to and with EOI."""
        roles: list[str] = []
        while "eoi" not in roles:
            offset = len(roles) + 1
            if self.is_video:
                roles.append(video_role(offset, *self.codes_THW.shape, self.form))
            else:
                roles.append(image_role(offset, *self.codes_THW.shape[1:]))
        return roles

    def fits(self, token: int, role: str) -> bool:
        if role == "visual":
            return 0 <= token - self.layout.first_visual_token < self.layout.codebook_size
        return token == getattr(self.layout, role)


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    """Generate layouts with control tokens on both sides of the visual tokens, often next to them."""
    size = draw(st.sampled_from([1, 2, 32768, 65536]) | st.integers(1, 65536))
    first = draw(st.integers(0, 12) | st.integers(0, 200_000))
    near = st.integers(max(0, first - 8), first + 8)
    ids = draw(st.lists(near | st.integers(0, 400_000), min_size=8, max_size=8, unique=True))
    outside = [token if token < first else token + size for token in ids]
    return TokenLayout(**dict(zip(CONTROL, outside)), first_visual_token=first, codebook_size=size)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    layout, is_video = draw(layouts()), draw(st.booleans())
    shape = draw(st.tuples(st.integers(1, 4) if is_video else st.just(1), st.integers(1, 6), st.integers(1, 6)))
    top = layout.codebook_size - 1
    codes = st.integers(0, top) | st.sampled_from([0, top])
    return Body(draw(arrays(np.uint16, shape, elements=codes)), layout, is_video, draw(st.sampled_from([UNIVLA, ROWS])))


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


def test_an_image_is_a_frame_of_rows() -> None:
    codes = np.array([[0, 1, 2], [5, 6, 7]], np.uint16)
    assert image_tokens(codes, SMALL).tolist() == video_tokens(codes[None], SMALL, ROWS).tolist()


def test_forms_of_videos_by_name() -> None:
    """Datasets record the names, so the formats behind them never change."""
    univla, rows = GridFormat("univla", "T*H*W", has_eol=False), GridFormat("rows", "T*H*W", has_eol=True)
    assert dict(VIDEO_FORMATS) == {"univla": univla, "rows": rows}


def test_the_size_stands_before_the_body_as_text() -> None:
    assert [form.size_text(4, 12, 7) for form in (UNIVLA, ROWS)] == ["4*12*7", "4*12*7"]
    assert IMAGE.size_text(1, 12, 7) == "12*7"


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


def real_vocabulary() -> dict[str, int]:
    """Return the special tokens of emu3.tiktoken, whose ids follow its 151643 ranks in this order."""
    surfaces = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205))]
    surfaces += ["<|image token|>", "<|image start|>", "<|image end|>"]
    surfaces += [f"<|visual token {code:06d}|>" for code in range(32768)]
    return {surface: 151643 + index for index, surface in enumerate(surfaces)}


def test_ids_of_the_real_layout() -> None:
    vocabulary = real_vocabulary()
    layout = TokenLayout.from_surfaces(vocabulary, "emu3.tiktoken")
    assert layout == REAL
    assert layout.end_of_visual == 184622 == max(vocabulary.values()) + 1
    assert image_tokens(np.array([[0, 32767]]), layout).tolist() == [151854, 184621, 151846, 151847, 151853]


def small_vocabulary() -> dict[str, int]:
    ids = {surface: getattr(SMALL, name) for name, surface in SURFACES.items()}
    return {**ids, **{f"<|visual token {code:06d}|>": 10 + code for code in range(8)}, "text": 20}


def test_layout_from_a_vocabulary_in_any_order() -> None:
    vocabulary = small_vocabulary()
    assert TokenLayout.from_surfaces(vocabulary, "here") == SMALL
    assert TokenLayout.from_surfaces(dict(reversed(vocabulary.items())), "here") == SMALL


@pytest.mark.parametrize("surface", list(SURFACES.values()))
def test_vocabularies_without_a_control_token_are_refused(surface: str) -> None:
    vocabulary = small_vocabulary()
    del vocabulary[surface]
    with pytest.raises(CheckpointError, match="here: the vocabulary lacks") as caught:
        TokenLayout.from_surfaces(vocabulary, "here")
    assert surface in str(caught.value)


@pytest.mark.parametrize(
    ("code", "token", "found", "consecutive"),
    [(3, None, 7, 3), (1, None, 7, 1), (3, 30, 8, 3), (7, 30, 8, 7), (9, 18, 9, 8), (8, 20, 9, 8), (3, 14, 8, 3)],
)
def test_vocabularies_with_gaps_are_refused(code: int, token: int | None, found: int, consecutive: int) -> None:
    """A visual token is missing, moved, past a missing one, or out of order."""
    vocabulary = small_vocabulary()
    surface = f"<|visual token {code:06d}|>"
    if token is None:
        del vocabulary[surface]
    else:
        vocabulary[surface] = token
    with pytest.raises(
        CheckpointError, match=f"here: {found} visual tokens, but only the first {consecutive} have consecutive ids"
    ):
        TokenLayout.from_surfaces(vocabulary, "here")


@pytest.mark.parametrize(("one", "other"), list(combinations(CONTROL, 2)))
def test_roles_that_share_an_id_are_refused(one: str, other: str) -> None:
    with pytest.raises(CheckpointError, match="expected distinct ids from 0"):
        replace(SMALL, **{one: getattr(SMALL, other)})


@pytest.mark.parametrize("role", CONTROL)
def test_control_ids_are_refused_below_zero_and_among_the_visual_ones(role: str) -> None:
    with pytest.raises(CheckpointError, match="expected distinct ids from 0"):
        replace(SMALL, **{role: -1})
    for token in range(SMALL.first_visual_token, SMALL.end_of_visual):
        with pytest.raises(CheckpointError, match=f"{role} lie within the visual tokens"):
            replace(SMALL, **{role: token})


@pytest.mark.parametrize("size", [0, -1])
def test_layouts_without_visual_tokens_are_refused(size: int) -> None:
    with pytest.raises(CheckpointError, match=f"codebook_size {size}: the model has no visual tokens"):
        replace(SMALL, codebook_size=size)


def test_visual_tokens_are_the_codes_and_no_others() -> None:
    assert [token for token in range(-1, 30) if SMALL.is_visual(token)] == list(range(10, 18))
    assert SMALL.control_ids == {name: getattr(SMALL, name) for name in CONTROL}


@given(layouts())
def test_layouts_survive_mappings(layout: TokenLayout) -> None:
    values = layout.to_dict()
    assert set(values) == {*CONTROL, "first_visual_token", "codebook_size"}
    assert TokenLayout.from_mapping(values) == layout
    assert TokenLayout.from_mapping(dict(reversed(values.items()))) == layout


@pytest.mark.parametrize("name", [*CONTROL, "first_visual_token", "codebook_size"])
def test_mappings_without_a_field_are_refused(name: str) -> None:
    values = SMALL.to_dict()
    del values[name]
    with pytest.raises(CheckpointError, match=rf"here: token layout: missing \['{name}'\], unknown nothing"):
        TokenLayout.from_mapping(values, "here")


def test_mappings_with_other_fields_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"here: token layout: missing nothing, unknown \['sep'\]"):
        TokenLayout.from_mapping({**SMALL.to_dict(), "sep": 30}, "here")
    renamed = {**SMALL.to_dict(), "sep": 30}
    del renamed["eol"]
    with pytest.raises(CheckpointError, match=r"missing \['eol'\], unknown \['sep'\]"):
        TokenLayout.from_mapping(renamed, "here")


@given(layouts())
def test_check_vocabulary_at_its_edge(layout: TokenLayout) -> None:
    last = max(layout.end_of_visual - 1, *(getattr(layout, name) for name in CONTROL))
    layout.check_vocabulary(last + 1, "model")
    with pytest.raises(CheckpointError, match=f"model: the token layout reaches id {last}, .* ends at {last - 1};"):
        layout.check_vocabulary(last, "model")


def test_check_vocabulary_of_the_real_model() -> None:
    REAL.check_vocabulary(184622, "model")
    with pytest.raises(CheckpointError, match="reaches id 184621"):
        REAL.check_vocabulary(184621, "model")
