"""Videos of every kind, whole and damaged: their description, or the reason for the refusal."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.codec import EMU3
from shared.errors import RefusedInput
from tests.support.small_videos import (
    FRAMES,
    HEIGHT,
    VIDEOS,
    VP9,
    WIDTH,
    animate,
    attempt,
    encode,
    frame_number_of,
    gray_picture,
    gray_pictures,
    index_first_mp4,
    refusal_reason,
    to_pixels,
)
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import OpenVideos, open_video


@pytest.mark.parametrize("kind", VIDEOS)
def test_info_has_size_rate_and_duration(kind: str) -> None:
    info = open_video(io.BytesIO(VIDEOS[kind]())).info
    assert (info.height, info.width, info.frame_count) == (HEIGHT, WIDTH, FRAMES)
    length_s = 2.6 if kind == "gif" else 2.5  # a GIF counts hundredths of a second
    assert info.duration_s == pytest.approx(length_s, abs=0.002)
    assert info.fps == pytest.approx(FRAMES / length_s, abs=0.05)


def with_sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty"),
    "one byte": (lambda: b"x", "not_a_video"),
    "text": (lambda: b"this is not a video, " * 200, "not_a_video"),
    "zeros": (lambda: bytes(5000), "not_a_video"),
    "noise": (lambda: random.Random(0).randbytes(20_000), "not_a_video"),
    "a playlist of other files": (lambda: b"#EXTM3U\n#EXTINF:1\nother.ts\n", "not_a_video"),
    "sound": (with_sound_only, "no_video"),
    "GIF's first bytes": (lambda: b"GIF89a and no more", "not_a_video"),
    "tiny": (lambda: encode("avi", "mjpeg", [gray_picture(0, 6, 16)] * 8, pix_fmt="yuvj420p"), "too_small"),
    "strip": (lambda: encode("mp4", pictures=[gray_picture(0, 16, 96)] * 8), "aspect_ratio"),
    "strip that moves": (
        lambda: animate("GIF", [Image.new("L", (96, 16), n) for n in (1, 2)], [9, 9]),
        "aspect_ratio",
    ),
    "slanted": (
        lambda: encode("mp4", configure=lambda stream: stream.set_display_rotation(30)),
        "unsupported_mode",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    make, reason = BAD[name]
    data = make()
    capfd.readouterr()
    assert refusal_reason(lambda: open_video(io.BytesIO(data)).info) == reason
    assert capfd.readouterr() == ("", ""), "the libraries print nothing"


@pytest.mark.parametrize("tenths", range(1, 10))
@pytest.mark.parametrize("kind", ["mp4", "index first", "matroska", "webm", "avi without display times", "gif", "webp"])
def test_a_cut_file_gives_right_frames_or_a_refusal(kind: str, tenths: int) -> None:
    data = index_first_mp4() if kind == "index first" else VIDEOS[kind]()
    video_bytes, sampling = data[: len(data) * tenths // 10], ClipSampling(frames=4, stride=1)
    clips, refusal = attempt(lambda: cut_clips(open_video(io.BytesIO(video_bytes)).info, sampling, EMU3))
    assert refusal in (None, "truncated", "too_short")
    for clip in clips or []:
        clip_THWC, refusal = attempt(partial(read_clip, open_video(io.BytesIO(video_bytes)), clip, sampling, to_pixels))
        assert refusal in (None, "truncated")
        if clip_THWC is not None:
            assert [frame_number_of(frame) for frame in clip_THWC] == [*range(clip.frame_start, clip.frame_start + 4)]


SMALL = {
    "mp4": encode("mp4", pictures=[gray_picture(n) for n in range(12)]),
    "webm": encode("webm", "libvpx-vp9", [gray_picture(n) for n in range(12)], options=VP9),
    "gif": animate("GIF", gray_pictures(12), [100] * 12),
    "webp": animate("WEBP", gray_pictures(12), [100] * 12),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bits_never_raise_anything_but_a_refusal(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["mp4", "webm", "gif", "webp"]))
    damaged, sampling = bytearray(SMALL[kind]), ClipSampling(frames=4, stride=1)
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[position] ^= data.draw(st.integers(1, 255))

    def read() -> int:
        video = open_video(io.BytesIO(bytes(damaged)))
        clips = cut_clips(video.info, sampling, EMU3)[:4]
        for clip in clips:
            clip_THWC = read_clip(video, clip, sampling, lambda image: np.asarray(image.resize((8, 8))))
            assert clip_THWC.shape == (4, 8, 8, 3)
        return len(clips)

    count, refusal = attempt(read)
    assert count or refusal


class StandIn:
    """A video that notes that it was closed."""

    def __init__(self) -> None:
        self.is_closed = False


def pool_of(opened: list[StandIn], max_idle: int = 2) -> OpenVideos:
    @contextmanager
    def open_one(name: str) -> Iterator[Any]:
        video = StandIn()
        opened.append(video)
        yield video
        video.is_closed = True

    return OpenVideos(open_one, max_idle)


def test_videos_stay_open_for_their_next_reader() -> None:
    opened: list[StandIn] = []
    videos = pool_of(opened)
    with videos.open("a") as first, videos.open("a") as second:
        assert first is not second, "one reader at a time"
    with videos.open("a") as third:
        assert third is second, "of those that are idle, the one that waits longest"
    with pytest.raises(RefusedInput), videos.open("a"):
        raise RefusedInput("truncated", "a clip behind the damage")
    assert len(opened) == 2


def test_few_videos_stay_open_and_none_after_an_unexpected_error() -> None:
    opened: list[StandIn] = []
    videos = pool_of(opened)
    for name in "abc":
        with videos.open(name):
            pass
    assert [video.is_closed for video in opened] == [True, False, False]
    with pytest.raises(KeyError), videos.open("c"):
        raise KeyError("a defect")
    with videos.open("c"):
        assert len(opened) == 4
