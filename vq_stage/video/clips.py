"""Videos cut into clips: which frames make a clip, and reading one into pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from shared.codec import TEMPORAL_FACTOR
from shared.errors import RefusedInput, UsageError
from vq_stage.video.container import ContainerVideo
from vq_stage.video.frames import Animation, VideoFile, VideoInfo, is_animation, read_head

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"}
    | {".flv", ".wmv", ".asf", ".ogv"}
)
DEFAULT_FPS = 8.0
LONGEST_FRAME_S = 600.0  # on average; above it a damaged time would be cut into millions of equal clips
ROUNDING = 1e-6  # of a frame: a duration of 2.4999999 s holds as many frames as one of 2.5 s


@dataclass(frozen=True, slots=True)
class ClipSampling:
    """How clips are cut from a video.

    `frames` is a clip's length, a multiple of 4. Frames are taken by time, at `fps` (default 8): right with variable
    frame rates; where the video has fewer, frames repeat. Or by count, every `stride`-th; then `fps` is None.
    Only `duration_s` from `start_s` on is used. Raises UsageError.
    """

    frames: int = 16
    fps: float | None = None
    stride: int | None = None
    start_s: float = 0.0
    duration_s: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise UsageError(
                f"--fps {self.fps:g} and --stride {self.stride}: expected one of them, by time or by count"
            )
        if self.fps is None and self.stride is None:
            object.__setattr__(self, "fps", DEFAULT_FPS)
        if self.frames < TEMPORAL_FACTOR or self.frames % TEMPORAL_FACTOR:
            raise UsageError(f"--clip-frames {self.frames}: expected a multiple of {TEMPORAL_FACTOR}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UsageError(f"--fps {self.fps:g}: expected frames per second above 0")
        if self.stride is not None and self.stride < 1:
            raise UsageError(f"--stride {self.stride}: expected at least 1")
        if not 0 <= self.start_s < math.inf:
            raise UsageError(f"--start-s {self.start_s:g}: expected seconds from the beginning, at least 0")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"--duration-s {self.duration_s:g}: expected seconds above 0")

    def recorded(self) -> dict[str, Any]:
        """For the preprocessing fingerprint."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Clip:
    """A run of frames, `frames` a multiple of 4.

    By time, `frame_stride` is None and frame i is the one shown at start_s + (frame_start + i) / fps.
    By count, frame i is the video's frame frame_start + i * frame_stride, and `fps` the video's over the stride.
    """

    frame_start: int
    frames: int
    fps: float
    frame_stride: int | None


def open_video(file: BinaryIO) -> VideoFile:
    """A video told by its content, not its name; `file` has to be seekable and stay open while it is read.

    Raises RefusedInput: `empty`, `unreadable`, `not_a_video`, `no_video`, `truncated`, `too_small`, `too_large`,
    `aspect_ratio` or `unsupported_mode`; what is wrong further on shows in `info` and in `read_clip`.
    """
    return Animation(file) if is_animation(read_head(file)) else ContainerVideo(file)


def cut_clips(info: VideoInfo, sampling: ClipSampling) -> list[Clip]:
    """Consecutive clips, the last as long as a multiple of 4 allows; up to 3 frames at the end are left out.

    By count, `start_s` and `duration_s` become frame numbers by the average rate.
    Raises RefusedInput: `too_short` if there is no clip, `unsupported_mode` if the times make no sense.
    """
    if info.duration_s > LONGEST_FRAME_S * info.frame_count:
        raise RefusedInput("unsupported_mode", f"{info.frame_count} frames in {info.duration_s:.0f} s: damaged times")
    first, stride, count, fps = _sampled(info, sampling)
    clips = []
    for done in range(0, count, sampling.frames):
        frames = min(sampling.frames, count - done) // TEMPORAL_FACTOR * TEMPORAL_FACTOR
        if frames:
            clips.append(Clip(first + done * stride, frames, fps, sampling.stride))
    if not clips:
        found = f"{max(count, 0)} frames at {fps:.3g} fps from {sampling.start_s:g} s on, of {info.duration_s:.3f} s"
        raise RefusedInput("too_short", f"{found}; expected at least {TEMPORAL_FACTOR}")
    return clips


def read_clip(
    video: VideoFile, clip: Clip, sampling: ClipSampling, resize: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """uint8 pixels (T, H, W, 3) of a clip; each frame is resized as soon as it is decoded.

    Raises RefusedInput: `truncated` if the video ends or is damaged before the clip does.
    """
    pixels_THWC = np.empty(0, np.uint8)
    for index, image in enumerate(video.frames_at(_times_s(video, clip, sampling))):
        pixels_HWC = resize(image)
        if index == 0:
            pixels_THWC = np.empty((clip.frames, *pixels_HWC.shape), np.uint8)
        pixels_THWC[index] = pixels_HWC
    return pixels_THWC


def _sampled(info: VideoInfo, sampling: ClipSampling) -> tuple[int, int, int, float]:
    """First frame, step, number of frames and their rate."""
    end_s = info.duration_s
    if sampling.duration_s is not None:
        end_s = min(end_s, sampling.start_s + sampling.duration_s)
    if sampling.stride is None:
        assert sampling.fps is not None
        return 0, 1, math.ceil((end_s - sampling.start_s) * sampling.fps - ROUNDING), sampling.fps
    first = math.ceil(sampling.start_s * info.fps - ROUNDING)
    is_cut = sampling.duration_s is not None
    last = min(info.frame_count, math.ceil(end_s * info.fps - ROUNDING)) if is_cut else info.frame_count
    return first, sampling.stride, math.ceil((last - first) / sampling.stride), info.fps / sampling.stride


def _times_s(video: VideoFile, clip: Clip, sampling: ClipSampling) -> list[float]:
    if clip.frame_stride is None:
        return [sampling.start_s + (clip.frame_start + index) / clip.fps for index in range(clip.frames)]
    starts_s = video.starts_s
    indices = range(clip.frame_start, clip.frame_start + clip.frames * clip.frame_stride, clip.frame_stride)
    if indices[-1] >= len(starts_s):
        raise RefusedInput("truncated", f"{len(starts_s)} frames, expected a frame {indices[-1]}")
    return [starts_s[index] for index in indices]
