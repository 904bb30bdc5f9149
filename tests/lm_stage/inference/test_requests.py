"""Requests are checked when they are built."""

from __future__ import annotations

from typing import Any

import pytest

from lm_stage import ImageRequest, VideoRequest
from shared.errors import UsageError


@pytest.mark.parametrize(
    "bad", [{"height": 0}, {"width": -1}, {"batch_size": 0}, {"guidance_scale": -1.0}, {"prompts": "a red apple"}]
)
def test_impossible_images_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        ImageRequest(**{"prompts": ["a red apple"], "height": 2, "width": 3, **bad})


def test_impossible_videos_are_refused() -> None:
    with pytest.raises(UsageError, match="frames 0: expected at least 1"):
        VideoRequest(prompts=[], frames=0, height=2, width=3)
    with pytest.raises(UsageError, match="height 0: expected at least 1"):
        VideoRequest(prompts=[], frames=1, height=0, width=3)
