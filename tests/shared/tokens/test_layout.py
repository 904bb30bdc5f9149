"""Layouts from vocabularies and mappings, and those that are refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from shared.errors import CheckpointError
from shared.tokens.grid_formats import IMAGE
from shared.tokens.layout import OPTIONAL_SURFACES, SURFACES, TokenLayout
from shared.tokens.visual_tokens import grid_tokens
from tests.support.token_layouts import CONTROL, OPTIONAL, REAL, SMALL, layouts


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
    assert layout.to_dict().keys() == {*CONTROL, "first_visual_token", "codebook_size"}, "as on disk"
    assert layout.end_of_visual == 184622 == max(vocabulary.values()) + 1
    assert grid_tokens(np.array([[[0, 32767]]]), layout, IMAGE).tolist() == [151854, 184621, 151846, 151847, 151853]


def test_ids_of_the_optional_roles() -> None:
    layout = TokenLayout.from_surfaces(real_vocabulary(), "emu3.tiktoken", with_optional=True)
    extras = {"bss": 100, "ess": 101, "bog": 60, "eog": 61, "boc": 50, "eoc": 51}
    expected = {role: 151646 + number for role, number in extras.items()}
    assert layout.to_dict() == {**REAL.to_dict(), **expected}
    assert layout.control_ids == {**REAL.control_ids, **expected}
    assert TokenLayout.from_mapping(layout.to_dict()) == layout
    assert TokenLayout.from_surfaces(small_vocabulary(), "here", with_optional=True) == SMALL


def test_layouts_agree_unless_a_role_has_two_ids() -> None:
    with_bss = replace(SMALL, bss=30)
    for one, other in ((SMALL, SMALL), (SMALL, with_bss), (with_bss, replace(SMALL, bss=30, ess=31))):
        assert one.agrees_with(other)
        assert other.agrees_with(one)
    for other in (replace(SMALL, bss=31), replace(SMALL, pad=31), replace(SMALL, codebook_size=7)):
        assert not with_bss.agrees_with(other)


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


@pytest.mark.parametrize(("other", "one"), list(combinations([*CONTROL, *OPTIONAL], 2)))
def test_roles_that_share_an_id_are_refused(one: str, other: str) -> None:
    with pytest.raises(CheckpointError, match="expected distinct ids from 0"):
        replace(SMALL, **{one: 30, other: 30})


@pytest.mark.parametrize("role", [*CONTROL, *OPTIONAL])
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
    assert {*CONTROL, "first_visual_token", "codebook_size"} <= set(values)
    assert list(OPTIONAL_SURFACES) == OPTIONAL
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
    last = max(layout.end_of_visual - 1, *(getattr(layout, name) or 0 for name in (*CONTROL, *OPTIONAL)))
    layout.check_vocabulary(last + 1, "model")
    with pytest.raises(CheckpointError, match=f"model: the token layout reaches id {last}, .* ends at {last - 1};"):
        layout.check_vocabulary(last, "model")


def test_check_vocabulary_of_the_real_model() -> None:
    REAL.check_vocabulary(184622, "model")
    with pytest.raises(CheckpointError, match="reaches id 184621"):
        REAL.check_vocabulary(184621, "model")
