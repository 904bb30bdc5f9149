"""The size of an image in codes, from a size in pixels or from an aspect ratio and an area."""

from __future__ import annotations

import math

from shared.codec import SPATIAL_FACTOR
from shared.errors import RefusedInput

MAX_SIDE = 65535 // SPATIAL_FACTOR  # in codes; a plan stores sides in pixels as uint16


def grid_size(ratio: str, area: int, height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """Return (height, width) in codes; `height` and `width` in pixels take precedence over `ratio` and `area`.

    `ratio` is width:height and `area` is in pixels. Raises RefusedInput (`bad_ratio`, `bad_size`) if they do not
    describe an image.
    """
    if (height is None) != (width is None):
        raise RefusedInput("bad_size", "height and width: expected both or neither")
    size = _from_ratio(ratio, area) if height is None or width is None else _from_pixels(height, width)
    if max(size) > MAX_SIDE:
        raise RefusedInput("bad_size", f"{size[0]}×{size[1]} codes: expected at most {MAX_SIDE} per side")
    return size


def _from_pixels(height: int, width: int) -> tuple[int, int]:
    if min(height, width) < SPATIAL_FACTOR or height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
        raise RefusedInput("bad_size", f"{height}×{width} pixels: expected multiples of {SPATIAL_FACTOR}")
    return height // SPATIAL_FACTOR, width // SPATIAL_FACTOR


def _from_ratio(ratio: str, area: int) -> tuple[int, int]:
    """Scale the ratio to the area and round to codes.

    Source: upstream's Emu3 processor, with Python's rounding of halves to even.
    """
    ratio_width, ratio_height = _parsed_ratio(ratio)
    if area < SPATIAL_FACTOR**2:
        raise RefusedInput("bad_size", f"area {area}: expected at least {SPATIAL_FACTOR**2} pixels")
    try:
        scale = math.sqrt(area / (ratio_width * ratio_height)) / SPATIAL_FACTOR
        height, width = round(ratio_height * scale), round(ratio_width * scale)
    except (ZeroDivisionError, OverflowError):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r} and area {area}: out of the range of arithmetic") from None
    if min(height, width) < 1:
        raise RefusedInput("bad_ratio", f"ratio {ratio!r} and area {area} give {height}×{width} codes")
    return height, width


def _parsed_ratio(ratio: str) -> tuple[float, float]:
    try:
        width, height = (float(number) for number in ratio.split(":"))
    except (ValueError, AttributeError):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r}: expected width:height, such as 16:9") from None
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r}: expected two positive numbers")
    return width, height
