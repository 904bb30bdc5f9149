"""What all kinds of videos share."""

from __future__ import annotations

import pytest

from tests.support.small_videos import (
    refusal_reason,
)
from vq_stage.video.video_file import TimedFrame, damage_refusal, frames_displayed_at


def test_frames_displayed_at_refuses_times_after_the_last_frames_end() -> None:
    frames = [TimedFrame(0.0, 0.5, "a"), TimedFrame(0.5, 1.0, "b")]
    assert list(frames_displayed_at(frames, [0.0, 0.4, 0.5, 0.9])) == ["a", "a", "b", "b"]
    assert refusal_reason(lambda: list(frames_displayed_at(frames, [0.9, 1.1]))) == "truncated"
    assert refusal_reason(lambda: list(frames_displayed_at([], [0.0]))) == "truncated"


def test_an_unexpected_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A type that damaged files do not cause may be a defect; the input is refused all the same."""
    with pytest.raises(AttributeError) as defect:
        raise AttributeError("a defect")
    assert damage_refusal("truncated", "cannot be read", defect.value).reason == "truncated"
    assert "Traceback" in caplog.text
    caplog.clear()
    assert "bad header" in damage_refusal("truncated", "cannot be read", ValueError("bad header")).detail
    assert not caplog.text
