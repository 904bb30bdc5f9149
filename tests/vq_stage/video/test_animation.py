"""Animated GIF, WebP and PNG files."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.codec import EMU3
from tests.support.small_videos import (
    HEIGHT,
    WIDTH,
    animate,
    attempt,
    frame_number_of,
    gray_pictures,
    refusal_reason,
    to_pixels,
)
from vq_stage.video.animation import Animation
from vq_stage.video.clips import Clip, ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import OpenVideos, open_video
from vq_stage.video.video_file import VideoFile

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
    assert refusal_reason(lambda: cut_clips(open_video(file).info, ClipSampling(), EMU3)) == "too_short"


def test_a_defect_while_reading_is_logged_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise AttributeError("a defect")

    monkeypatch.setattr("vq_stage.video.animation.flatten_on_white", fail)
    video = open_video(io.BytesIO(animate("GIF", gray_pictures(4), [100] * 4)))
    with caplog.at_level(logging.DEBUG, "vq_stage.media.image_decoding"):
        assert refusal_reason(lambda: list(video.frames_at([0.0]))) == "truncated"
    assert "Traceback" in caplog.text
    assert "a defect" in caplog.text


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_planning_decodes_no_frame_and_clips_decode_each_frame_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, loaded = gray_pictures(40), [0]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = animate(kind, pictures, [100] * 40, **options)
    advance = Animation._advance

    def counted(self: Animation) -> None:
        loaded[0] += 1
        advance(self)

    monkeypatch.setattr(Animation, "_advance", counted)

    @contextmanager
    def open_one() -> Iterator[VideoFile]:
        yield open_video(io.BytesIO(data))

    videos, sampling = OpenVideos(open_one), ClipSampling(frames=4, fps=10)
    with videos.open() as video:
        clips = cut_clips(video.info, sampling, EMU3)
    assert (len(clips), loaded) == (10, [0])
    for clip in clips:
        with videos.open() as video:
            read = read_clip(video, clip, sampling, to_pixels)
        assert [frame_number_of(frame) for frame in read] == list(range(clip.frame_start, clip.frame_start + 4))
    assert loaded == [40]
    with videos.open() as video:  # an earlier clip again: from the first frame
        assert frame_number_of(read_clip(video, clips[1], sampling, to_pixels)[0]) == 4
    assert loaded == [48]


def test_frames_behind_damage_are_refused_without_decoding_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(animate("PNG", gray_pictures(12), [100] * 12))
    at = data.rindex(b"fdAT", 0, len(data) * 2 // 3) + 12
    data[at : at + 8] = b"\xff" * 8
    video, sampling = open_video(io.BytesIO(bytes(data))), ClipSampling(frames=4, fps=10)
    clips = cut_clips(video.info, sampling, EMU3)
    assert len(clips) == 3
    assert frame_number_of(read_clip(video, clips[0], sampling, to_pixels)[3]) == 3
    assert refusal_reason(lambda: read_clip(video, clips[2], sampling, to_pixels)) == "truncated"
    monkeypatch.setattr(Animation, "_advance", lambda self: pytest.fail("decoded again"))
    assert refusal_reason(lambda: read_clip(video, clips[2], sampling, to_pixels)) == "truncated"


def gif_of(frames: int, screen: tuple[int, int], rectangle: tuple[int, int, int, int]) -> bytes:
    """Return a GIF whose frames state a rectangle (left, top, width, height) but contain hardly any pixels."""
    frame = b"!\xf9\x04\x04\x0a\0\0\0," + struct.pack("<HHHHB", *rectangle, 0) + b"\x02\x02\x44\x01\x00"
    palette = bytes((0, 0, 0, 255, 255, 255))
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + palette + frame * frames + b";"


def webp_of(frames: int) -> bytes:
    """Return a WebP that repeats one frame of 64 × 48 pixels."""
    data = animate("WEBP", gray_pictures(2), [100] * 2, lossless=True)
    at = data.index(b"ANMF")
    body = data[12:at] + data[at : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")] * frames
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize(
    "data",
    [
        gif_of(21, (13_000, 13_000), (0, 0, 13_000, 13_000)),
        gif_of(21, (13_000, 13_000), (0, 0, 1, 1)),
        gif_of(21, (64, 64), (0, 0, 13_000, 13_000)),
        gif_of(21, (64, 64), (65_000, 65_000, 500, 500)),
        gif_of(5_000, (1_000, 1_000), (0, 0, 1, 1)),
        gif_of(100_000, (16, 16), (0, 0, 16, 16)),
        webp_of(100_000),
    ],
    ids=["canvas", "canvas of small frames", "large frames", "far frames", "pixels", "tiny frames", "webp"],
)
def test_animations_over_the_limits_are_refused_without_decoding(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Animation, "_advance", lambda self: pytest.fail("decoded"))
    assert refusal_reason(lambda: open_video(io.BytesIO(data)).info) == "too_large"


def test_animations_within_the_limits() -> None:
    assert open_video(io.BytesIO(webp_of(1_000))).info.frame_count == 1_000
    info = open_video(io.BytesIO(gif_of(30, (64, 64), (0, 0, 128, 96)))).info
    assert (info.height, info.width, info.frame_count, info.fps) == (96, 128, 30, pytest.approx(10))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_index_agrees_with_the_decoder(kind: str) -> None:
    durations = [100, 20, 0, 70, 1000, 30, 30, 40]
    data = animate(kind, gray_pictures(8), durations)
    starts = [0.0]
    with Image.open(io.BytesIO(data)) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            image.load()
            starts.append(starts[-1] + (image.info.get("duration") or 100) / 1000)
    video = open_video(io.BytesIO(data))
    assert video.start_times_s == pytest.approx(starts[:-1])
    assert video.info.duration_s == pytest.approx(starts[-1])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_cut_animation_is_refused_at_the_latest_when_the_cut_is_read(kind: str) -> None:
    data = animate(kind, gray_pictures(8), [100] * 8)
    for length in range(1, len(data) - 4, 37):

        def read_all(length: int = length) -> object:
            video = open_video(io.BytesIO(data[:length]))
            return [list(video.frames_at([0.7])), video.info]

        reason = attempt(read_all)[1]
        assert reason in ("truncated", "not_a_video", "too_short"), length
