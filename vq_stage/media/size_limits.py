"""Limits on the size of images and video frames, checked on the header before any pixel is decoded."""

from __future__ import annotations

from shared.codec import SPATIAL_FACTOR
from shared.errors import RefusedInput

MAX_PIXELS = 178_956_970  # above it Pillow, by default, raises DecompressionBombError
MIN_SIDE = SPATIAL_FACTOR
MAX_ASPECT_RATIO = 5.0  # limit of the published image processor


def check_size(height: int, width: int) -> None:
    """Raise RefusedInput `too_large`, `too_small` or `aspect_ratio` for a size in pixels outside the limits."""
    if width * height > MAX_PIXELS:
        raise RefusedInput("too_large", f"{height}×{width} pixels, expected at most {MAX_PIXELS} in total")
    if min(height, width) < MIN_SIDE:
        raise RefusedInput("too_small", f"{height}×{width} pixels, expected sides of at least {MIN_SIDE}")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise RefusedInput("aspect_ratio", f"{height}×{width} pixels, expected at most 1:{MAX_ASPECT_RATIO:g}")
