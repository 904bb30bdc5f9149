"""Which frames clips consist of, for videos of every kind."""

from __future__ import annotations

import io
import math
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.codec import EMU3, EMU35, Codec
from shared.errors import DatasetError, UsageError
from tests.support.small_videos import (
    FRAMES,
    HEIGHT,
    VIDEOS,
    WIDTH,
    animate,
    attempt,
    encode,
    frame_number_of,
    gray_picture,
    gray_pictures,
    refusal_reason,
    sampled_frame_numbers,
    to_pixels,
)
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video
from vq_stage.video.video_file import VideoInfo


@pytest.mark.parametrize("kind", VIDEOS)
def test_clips_read_one_by_one_show_every_frame_once(kind: str) -> None:
    """Each clip seeks anew: past B-frames, to keyframes that are displayed later than they are decoded."""
    assert sampled_frame_numbers(VIDEOS[kind](), ClipSampling(frames=8, stride=1)) == list(range(FRAMES))


@pytest.mark.parametrize("kind", sorted(set(VIDEOS) - {"gif"}))
def test_sampling_by_time_takes_the_frame_displayed_then(kind: str) -> None:
    data = VIDEOS[kind]()
    assert sampled_frame_numbers(data, ClipSampling(frames=8, fps=8)) == list(range(0, FRAMES, 3))
    assert sampled_frame_numbers(data, ClipSampling(frames=8, fps=24)) == list(range(FRAMES))
    half = ClipSampling(frames=4, fps=12, start_s=0.5, duration_s=1.0)
    assert sampled_frame_numbers(data, half) == list(range(12, 36, 2))


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_sampling_by_count_takes_every_nth_frame(kind: str) -> None:
    assert sampled_frame_numbers(VIDEOS[kind](), ClipSampling(frames=8, stride=5)) == list(range(0, FRAMES, 5))


@pytest.mark.parametrize("kind", ["mp4", "avi without display times", "webp"])
def test_a_clip_equals_its_slice_of_the_video(kind: str) -> None:
    data, whole = VIDEOS[kind](), ClipSampling(frames=60, fps=24)
    video = open_video(io.BytesIO(data))
    (only,) = cut_clips(video.info, whole, EMU3)
    pixels_THWC = read_clip(video, only, whole, to_pixels)
    short = replace(whole, frames=12)
    for clip in reversed(cut_clips(video.info, short, EMU3)):
        part_THWC = read_clip(video, clip, short, to_pixels)
        assert np.array_equal(part_THWC, pixels_THWC[clip.frame_start : clip.frame_start + clip.frames])


def test_a_rate_above_that_of_the_video_repeats_frames() -> None:
    data = animate("GIF", gray_pictures(4), [500] * 4)
    assert sampled_frame_numbers(data, ClipSampling(frames=4, fps=4)) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["matroska", "mp4"])
def test_variable_rate_is_sampled_by_time(kind: str) -> None:
    """Frames 0–4 last 100 ms each, 5–9 a second each."""
    pts = [0, 100, 200, 300, 400, 500, 1500, 2500, 3500, 4500]
    data = encode(kind, pictures=[gray_picture(n) for n in range(10)], pts=pts, time_base=Fraction(1, 1000))
    found = sampled_frame_numbers(data, ClipSampling(frames=4, fps=4))
    assert len(found) in (16, 20), "the duration of the last frame depends on the container"
    assert found == [max(n for n in range(10) if pts[n] <= 250 * k) for k in range(len(found))]
    assert sampled_frame_numbers(data, ClipSampling(frames=4, stride=2, duration_s=60)) == [0, 2, 4, 6]


def test_reading_one_clip_of_a_long_video_needs_memory_for_the_clip_only() -> None:
    frames = 2000
    data = encode("mp4", pictures=[gray_picture(n % 70) for n in range(frames)], options={"preset": "ultrafast"})
    sampling = ClipSampling(frames=16, fps=24)
    video = open_video(io.BytesIO(data))
    clips = cut_clips(video.info, sampling, EMU3)
    assert len(clips) == frames // 16
    resized = []

    def resize(image: Image.Image) -> np.ndarray:
        resized.append(image.size)
        return np.asarray(image)

    tracemalloc.start()
    clip_THWC = read_clip(video, clips[-1], sampling, resize)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [frame_number_of(frame) for frame in clip_THWC] == [n % 70 for n in range(1984, 2000)]
    assert len(resized) == 16, "frames outside the clip are not converted"
    assert peak_bytes < 3 * clip_THWC.nbytes + 1_000_000 < frames * clip_THWC[0].nbytes / 5


@given(
    st.floats(0.01, 100),
    st.floats(1, 120),
    st.integers(1, 8).map(lambda quarter: 4 * quarter),
    st.one_of(st.tuples(st.floats(0.5, 60), st.none()), st.tuples(st.none(), st.integers(1, 9))),
    st.floats(0, 20),
    st.none() | st.floats(0.1, 50),
)
def test_clips_cover_without_overlap_in_multiples_of_4(
    length_s: float,
    native_fps: float,
    frames: int,
    rate: tuple[float | None, int | None],
    start_s: float,
    duration_s: float | None,
) -> None:
    info = VideoInfo(HEIGHT, WIDTH, native_fps, length_s, max(1, round(length_s * native_fps)))
    sampling = ClipSampling(frames, rate[0], rate[1], start_s, duration_s)
    end_s = min(length_s, start_s + (duration_s or math.inf))
    found, refusal = attempt(lambda: cut_clips(info, sampling, EMU3))
    clips = found or []
    assert refusal in (None, "too_short")
    assert bool(clips) == (refusal is None)
    step = sampling.stride or 1
    taken = [clip.frame_start + index * step for clip in clips for index in range(clip.frames)]
    assert taken == list(range(taken[0], taken[-1] + 1, step) if taken else [])
    assert all(clip.frames % 4 == 0 and 0 < clip.frames <= frames for clip in clips)
    assert all(clip.frames == frames for clip in clips[:-1])
    rate_fps = sampling.fps or native_fps
    first = start_s * native_fps if sampling.stride else 0.0
    last = (end_s - (0.0 if sampling.stride else start_s)) * rate_fps
    if sampling.stride:
        last = min(last, info.frame_count)
    last = max(last, first)
    covered = taken[-1] + step if taken else first
    assert covered < last + step + 1, "nothing after the end"
    assert covered > last - 4 * step - 1, "fewer than 4 frames are left out"


def test_a_frame_of_weeks_is_refused_as_a_damaged_timestamp() -> None:
    info = VideoInfo(HEIGHT, WIDTH, 24.0, 1e9, FRAMES)
    assert refusal_reason(lambda: cut_clips(info, ClipSampling(), EMU3)) == "unsupported_mode"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frames": 0}, "--clip-frames 0"),
        ({"fps": 8.0, "stride": 2}, "--stride 2"),
        ({"fps": 0.0}, "--fps 0"),
        ({"fps": math.nan}, "--fps nan"),
        ({"stride": 0}, "--stride 0"),
        ({"start_s": -1.0}, "--start-s -1"),
        ({"duration_s": 0.0}, "--duration-s 0"),
    ],
)
def test_settings_that_cannot_work_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        ClipSampling(**options)


def test_clips_have_a_multiple_of_the_frames_per_code() -> None:
    ClipSampling(frames=6).check(Codec(None, 512, 8, 2))
    with pytest.raises(UsageError, match="--clip-frames 6: expected a multiple of 4"):
        ClipSampling(frames=6).check(EMU3)


def test_a_codec_of_images_only_has_no_sampling() -> None:
    ClipSampling().check(EMU35)
    with pytest.raises(UsageError, match=r"--fps, --stride.* encodes images only; save the frames"):
        ClipSampling(fps=4).check(EMU35)


def test_a_stride_replaces_the_rate_and_both_are_recorded() -> None:
    assert ClipSampling().to_json() == {"frames": 16, "fps": 8.0, "stride": None, "start_s": 0.0, "duration_s": None}
    assert ClipSampling(stride=2).to_json()["fps"] is None


@pytest.mark.parametrize(
    "sampling", [ClipSampling(), ClipSampling(8, stride=3), ClipSampling(4, fps=2.5, start_s=1.5, duration_s=3)]
)
def test_recorded_settings_are_read_back(sampling: ClipSampling) -> None:
    assert ClipSampling.from_json(sampling.to_json(), "plan") == sampling


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"frames": 0}, "clips: --clip-frames 0"),
        ({"frames": "16"}, "clips.frames: expected int, got '16'"),
        ({"overlap": 4}, "clips.overlap: unknown field"),
    ],
)
def test_recorded_settings_that_cannot_be_read_name_the_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(DatasetError, match=f"^plan: {named}"):
        ClipSampling.from_json({**ClipSampling().to_json(), **changes}, "plan")


@pytest.mark.parametrize(
    ("frames", "duration_s", "sampling"),
    [
        (10_000, 5_900_000.0, ClipSampling()),
        (10_000, 5_900_000.0, ClipSampling(frames=4, fps=1000.0)),
        (100, 10.0, ClipSampling(frames=4, fps=1e9)),
        (1 << 30, 1e7, ClipSampling(stride=1)),
        (4, 1e12, ClipSampling()),
    ],
)
def test_endless_timestamps_are_refused(frames: int, duration_s: float, sampling: ClipSampling) -> None:
    info = VideoInfo(48, 64, frames / duration_s, duration_s, frames)
    assert refusal_reason(lambda: cut_clips(info, sampling, EMU3)) == "unsupported_mode"


def test_a_day_of_video_is_accepted() -> None:
    assert len(cut_clips(VideoInfo(48, 64, 24.0, 86_400.0, 2_073_600), ClipSampling(stride=1), EMU3)) == 129_600
