"""Timestamps of containers."""

from __future__ import annotations

import io
from fractions import Fraction

import av

from tests.support.small_videos import (
    FRAMES,
    encode,
    sampled_frame_numbers,
)
from vq_stage.video.clips import ClipSampling
from vq_stage.video.timing import StreamClock


def test_time_0_is_the_first_frame_whatever_its_timestamp() -> None:
    late = encode("matroska", pts=[n + 240 for n in range(FRAMES)])
    assert av.open(io.BytesIO(late)).streams.video[0].start_time == 10_000
    assert sampled_frame_numbers(late, ClipSampling(frames=4, fps=8)) == list(range(0, FRAMES, 3))


def test_ticks_become_seconds_after_the_first_frame() -> None:
    clock = StreamClock("mov", Fraction(1, 1000), frame_duration_s=0.04, origin_pts=500)
    assert clock.seconds(1500) == 1.0
    assert clock.duration_s(100) == 0.1
    assert clock.duration_s(0) == 0.04, "a missing duration is that of an average frame"
    assert clock.tolerance_s == 0.51e-3
