"""Animated GIF, WebP and PNG files."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.small_videos import (
    HEIGHT,
    WIDTH,
    animate,
    gray_pictures,
    refusal_reason,
    to_pixels,
)
from vq_stage.video.clips import Clip, ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video

WHITE = (255, 255, 255)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF"])
def test_transparency_is_blended_with_white(kind: str) -> None:
    pictures = [Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)) for _ in range(4)]
    for number, picture in enumerate(pictures):
        picture.paste((255, 0, 0, 255), (8 * number, 0, 8 * number + 8, HEIGHT))
        picture.paste((0, 0, 0, 0), (8 * number + 2, 2, 8 * number + 4, 4))
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"disposal": 2} if kind == "GIF" else {}
    data = animate(kind, pictures, [100] * 4, **options)
    clip_THWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 10, 1), ClipSampling(stride=1), to_pixels)
    for number, frame_HWC in enumerate(clip_THWC):
        expected_HWC = np.full((HEIGHT, WIDTH, 3), WHITE, np.uint8)
        expected_HWC[:, 8 * number : 8 * number + 8] = (255, 0, 0)
        expected_HWC[2:4, 8 * number + 2 : 8 * number + 4] = WHITE
        assert np.array_equal(frame_HWC, expected_HWC)


def test_a_frame_of_0_ms_lasts_100_ms() -> None:
    data = animate("GIF", gray_pictures(8), [0] * 8)
    info = open_video(io.BytesIO(data)).info
    assert (info.fps, info.duration_s, info.frame_count) == (pytest.approx(10), pytest.approx(0.8), 8)


def test_a_still_image_is_too_short() -> None:
    file = io.BytesIO()
    gray_pictures(1)[0].save(file, "PNG")
    assert refusal_reason(lambda: cut_clips(open_video(file).info, ClipSampling())) == "too_short"


def test_a_defect_while_reading_is_logged_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise AttributeError("a defect")

    monkeypatch.setattr("vq_stage.video.animation.TimedFrame", fail)
    video = open_video(io.BytesIO(animate("GIF", gray_pictures(4), [100] * 4)))
    with caplog.at_level(logging.DEBUG, "vq_stage.video.animation"):
        assert refusal_reason(lambda: video.info) == "truncated"
    assert "Traceback" in caplog.text
    assert "a defect" in caplog.text
