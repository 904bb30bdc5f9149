"""Sizes in codes, from pixels, ratios and areas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.generate.grid_size import grid_size
from shared.errors import RefusedInput


@pytest.mark.parametrize(
    ("ratio", "area", "size"),
    [
        ("1:1", 720 * 720, (90, 90)),
        ("1:1", 512 * 512, (64, 64)),
        ("16:9", 720 * 720, (68, 120)),  # 67.5 rows
        ("9:16", 720 * 720, (120, 68)),
        ("4:3", 720 * 720, (78, 104)),
        ("1.5:1", 24 * 16, (2, 3)),
        ("1:1", 20 * 20, (2, 2)),  # 2.5 codes: Python rounds to even
        ("1:1", 28 * 28, (4, 4)),  # 3.5 codes
        ("1:1", 64, (1, 1)),
    ],
)
def test_ratio_and_area_give_the_grid_of_upstream(ratio: str, area: int, size: tuple[int, int]) -> None:
    assert grid_size(ratio, area) == size


@given(st.integers(1, 40), st.integers(1, 40), st.integers(64 * 64, 2048 * 2048))
def test_the_grid_is_the_nearest_to_ratio_and_area(across: int, down: int, area: int) -> None:
    height, width = grid_size(f"{across}:{down}", area)
    side = math.sqrt(area / (across * down))
    assert abs(height * 8 - down * side) < 4.001
    assert abs(width * 8 - across * side) < 4.001
    assert grid_size(f"{down}:{across}", area) == (width, height)


def test_height_and_width_win_over_ratio_and_area() -> None:
    assert grid_size("16:9", 720 * 720, 64, 48) == (8, 6)
    assert grid_size("16:9", 720 * 720, 8, 8) == (1, 1)


@pytest.mark.parametrize(
    "ratio",
    [
        "0:1",
        "1:0",
        "-1:1",
        "1:-1",
        "-1:-1",
        "nan:1",
        "1:nan",
        "inf:1",
        "1:inf",
        "wide",
        "",
        ":",
        "16",
        "16:9:1",
        "1e9:1",
    ],
)
def test_ratios_that_give_no_image_are_refused(ratio: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        grid_size(ratio, 720 * 720)
    assert refused.value.reason == "bad_ratio"
    assert repr(ratio) in refused.value.detail


@pytest.mark.parametrize(
    ("height", "width"), [(64, None), (None, 64), (60, 64), (64, 60), (0, 64), (64, 0), (-8, 64), (64, -8), (4, 4)]
)
def test_sizes_that_give_no_image_are_refused(height: int | None, width: int | None) -> None:
    with pytest.raises(RefusedInput, match="bad_size"):
        grid_size("1:1", 720 * 720, height, width)


@pytest.mark.parametrize("area", [63, 0, -64])
def test_areas_below_one_code_are_refused(area: int) -> None:
    with pytest.raises(RefusedInput, match=f"bad_size: area {area}"):
        grid_size("1:1", area)


def test_areas_beyond_any_image_are_refused() -> None:
    with pytest.raises(RefusedInput, match="125000×125000 codes"):
        grid_size("1:1", 10**12)


@pytest.mark.parametrize(("ratio", "area"), [("1e-200:1e-200", 518400), ("1e308:1e-308", 518400), ("1:1", 10**400)])
def test_numbers_beyond_arithmetic_are_refused(ratio: str, area: int) -> None:
    with pytest.raises(RefusedInput, match="bad_ratio"):
        grid_size(ratio, area)
