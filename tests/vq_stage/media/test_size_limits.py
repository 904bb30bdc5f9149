"""Limits on the size of images and video frames."""

from __future__ import annotations

import pytest

from shared.errors import RefusedInput
from vq_stage.media.size_limits import MAX_PIXELS, check_size


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 40), (1000, 200)])
def test_sizes_within_the_limits_pass(height: int, width: int) -> None:
    check_size(height, width)


@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [(7, 8, "too_small"), (8, 41, "aspect_ratio"), (41, 8, "aspect_ratio"), (MAX_PIXELS // 2, 3, "too_large")],
)
def test_sizes_outside_the_limits_are_refused(height: int, width: int, reason: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        check_size(height, width)
    assert refused.value.reason == reason
