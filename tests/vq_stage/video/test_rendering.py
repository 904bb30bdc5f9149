"""Decoded frames as upright RGB images."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from shared.codec import EMU3
from tests.support.small_videos import (
    FPS,
    HEIGHT,
    WIDTH,
    encode,
    to_pixels,
)
from vq_stage.video.clips import Clip, ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, "top"), (90, "left"), (180, "bottom"), (270, "right")],
)
def test_rotation_is_applied_to_size_and_pixels(degrees: int, expected: str) -> None:
    """A bright top edge, turned counterclockwise as the file asks, is on the left and so on."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 4] = 200
    data = encode("mp4", pictures=[picture] * 8, configure=lambda stream: stream.set_display_rotation(degrees))
    video, sampling = open_video(io.BytesIO(data)), ClipSampling(frames=4, stride=1)
    size = (WIDTH, HEIGHT) if degrees % 180 else (HEIGHT, WIDTH)
    assert (video.info.height, video.info.width) == size
    frame_HW = read_clip(video, cut_clips(video.info, sampling, EMU3)[0], sampling, to_pixels)[0, :, :, 0]
    assert frame_HW.shape == size
    edges = {"top": frame_HW[2], "bottom": frame_HW[-3], "left": frame_HW[:, 2], "right": frame_HW[:, -3]}
    assert max(edges, key=lambda edge: float(np.median(edges[edge]))) == expected


def test_a_mirrored_video_is_mirrored() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, : WIDTH // 4] = 200
    data = encode(
        "mp4",
        pictures=[picture] * 8,
        configure=lambda stream: stream.set_display_matrix([-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]),
    )
    sampling = ClipSampling(frames=4, stride=1)
    frame_HWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 24, 1), sampling, to_pixels)[0]
    assert frame_HWC[:, -3].mean() > 190
    assert frame_HWC[:, 2].mean() < 10


def test_pixels_that_are_not_square_are_stretched_in_width() -> None:
    def widen(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)

    video = open_video(io.BytesIO(encode("mp4", configure=widen)))
    assert (video.info.height, video.info.width) == (HEIGHT, WIDTH * 3 // 2)
    sampling = ClipSampling(frames=4)
    assert read_clip(video, Clip(0, 4, 8, None), sampling, to_pixels).shape == (4, HEIGHT, WIDTH * 3 // 2, 3)


def test_odd_sides_and_colors_survive() -> None:
    picture = np.zeros((51, 37, 3), np.uint8)
    picture[:] = (200, 60, 30)
    data = encode("mp4", "libx264", pictures=[picture] * 4, pix_fmt="yuv444p", options={"crf": "1"})
    frame_HWC = read_clip(open_video(io.BytesIO(data)), Clip(0, 4, 24, 1), ClipSampling(stride=1), to_pixels)[0]
    assert frame_HWC.shape == (51, 37, 3)
    assert np.abs(frame_HWC.astype(int) - (200, 60, 30)).max() <= 3


def test_transparency_is_blended_with_white() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[:, :32] = (255, 0, 0, 255)
    pictures = [picture] * 4
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream: Any = container.add_stream("qtrle", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "argb"
        for index, pixels_HWC in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgba").reformat(format="argb")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip_THWC = read_clip(open_video(file), Clip(0, 4, 24, 1), ClipSampling(stride=1), to_pixels)
    assert np.all(clip_THWC[:, :, :32] == (255, 0, 0))
    assert np.all(clip_THWC[:, :, 32:] == 255)
