"""Containers: what is never opened, and files that are cut short."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import av
import pytest

from tests.support.small_videos import (
    FRAMES,
    HEIGHT,
    VIDEOS,
    WIDTH,
    attempt,
    frame_number_of,
    index_first_mp4,
    refusal_reason,
    to_pixels,
)
from vq_stage.video.clips import ClipSampling, cut_clips, read_clip
from vq_stage.video.open_video import open_video


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.mp4").write_bytes(VIDEOS["mp4"]())
    monkeypatch.chdir(tmp_path)
    playlist = b"ffconcat version 1.0\nfile secret.mp4\n"
    assert refusal_reason(lambda: open_video(io.BytesIO(playlist))) == "not_a_video"


def test_too_many_pixels_are_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = VIDEOS["mp4"]()
    monkeypatch.setattr("vq_stage.video.container.MAX_PIXELS", HEIGHT * WIDTH - 1)
    assert refusal_reason(lambda: open_video(io.BytesIO(data))) == "too_large"


def test_frames_before_the_cut_are_still_read() -> None:
    data = index_first_mp4()
    video, sampling = open_video(io.BytesIO(data[:-200])), ClipSampling(frames=8, stride=1)
    assert video.info.frame_count == FRAMES, "the header is complete"
    first, *_, last = cut_clips(video.info, sampling)
    assert [frame_number_of(frame) for frame in read_clip(video, first, sampling, to_pixels)] == list(range(8))
    assert refusal_reason(lambda: read_clip(video, last, sampling, to_pixels)) == "truncated"


def test_a_cut_between_packets_skips_no_frame() -> None:
    """A frame that refers to a later one is stored after it, so the frames before the cut have gaps."""
    data = index_first_mp4()
    with av.open(io.BytesIO(data), "r") as container:
        ends = [entry.pos for entry in container.streams.video[0].index_entries][21:33]
    sampling = ClipSampling(frames=4, fps=24)
    for end in ends:
        video = open_video(io.BytesIO(data[:end]))
        for clip in cut_clips(video.info, sampling)[3:9]:
            clip_THWC, refusal = attempt(partial(read_clip, video, clip, sampling, to_pixels))
            assert refusal == (None if clip_THWC is not None else "truncated")
            if clip_THWC is not None:
                found = [frame_number_of(frame) for frame in clip_THWC]
                assert found == [*range(clip.frame_start, clip.frame_start + 4)]
