"""What all kinds of videos share."""

from __future__ import annotations

from tests.support.small_videos import (
    refusal_reason,
)
from vq_stage.video.video_file import TimedFrame, frames_displayed_at


def test_frames_displayed_at_refuses_times_after_the_last_frames_end() -> None:
    frames = [TimedFrame(0.0, 0.5, "a"), TimedFrame(0.5, 1.0, "b")]
    assert list(frames_displayed_at(frames, [0.0, 0.4, 0.5, 0.9])) == ["a", "a", "b", "b"]
    assert refusal_reason(lambda: list(frames_displayed_at(frames, [0.9, 1.1]))) == "truncated"
    assert refusal_reason(lambda: list(frames_displayed_at([], [0.0]))) == "truncated"
