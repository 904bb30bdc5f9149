"""Clips: which frames of a video are encoded together, and how one clip is read into pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shared.codec import NO_VIDEO_MESSAGE, Codec
from shared.errors import DatasetError, RefusedInput, UsageError
from vq_stage.video.video_file import VideoFile, VideoInfo

if TYPE_CHECKING:  # this module holds defaults of options, so it loads no library
    import numpy as np
    from PIL import Image

DEFAULT_FPS = 8.0
MAX_MEAN_FRAME_S = 600.0  # a longer one is a damaged timestamp, which would give millions of equal clips
MAX_SAMPLED_FRAMES = 1 << 21  # of one video: a day at 24 fps
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "frames": (int,),
    "fps": (int, float, type(None)),
    "stride": (int, type(None)),
    "start_s": (int, float),
    "duration_s": (int, float, type(None)),
}
FRAME_ROUNDING = 1e-6  # in frames: a duration of 2.4999999 s holds as many frames as one of 2.5 s


@dataclass(frozen=True, slots=True)
class ClipSampling:
    """How a video is sampled and cut into clips of `frames` frames, a multiple of the codec's temporal factor.

    Frames are sampled by time, at `fps` frames per second (default 8), which is right for variable frame rates too;
    if the video has fewer, frames repeat. Or by count, every `stride`-th frame; then `fps` is None.
    Only `duration_s` seconds from `start_s` on are used, by default all.
    Raises UsageError, naming the command-line option, for values that cannot work.
    """

    frames: int = 16
    fps: float | None = None
    stride: int | None = None
    start_s: float = 0.0
    duration_s: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise UsageError(
                f"--fps {self.fps:g} and --stride {self.stride}: expected one of them; --fps samples by time, --stride"
                " by count"
            )
        if self.fps is None and self.stride is None:
            object.__setattr__(self, "fps", DEFAULT_FPS)
        if self.frames < 1:
            raise UsageError(f"--clip-frames {self.frames}: expected at least 1")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UsageError(f"--fps {self.fps:g}: expected a number of frames per second above 0")
        if self.stride is not None and self.stride < 1:
            raise UsageError(f"--stride {self.stride}: expected at least 1")
        if not 0 <= self.start_s < math.inf:
            raise UsageError(f"--start-s {self.start_s:g}: expected at least 0 seconds")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"--duration-s {self.duration_s:g}: expected more than 0 seconds")

    def check(self, codec: Codec) -> None:
        """Raise UsageError, naming the command-line options, for settings that do not suit the codec."""
        if not codec.supports_video and self != ClipSampling():
            raise UsageError(
                f"--clip-frames, --fps, --stride, --start-s and --duration-s: expected none of them: {NO_VIDEO_MESSAGE}"
            )
        if codec.supports_video and self.frames % codec.temporal_factor:
            raise UsageError(f"--clip-frames {self.frames}: expected a multiple of {codec.temporal_factor}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> ClipSampling:
        """Build from what `to_json` returned. Raises DatasetError, naming `where` and the field."""
        for name, value in values.items():
            if name not in _JSON_TYPES:
                raise DatasetError(f"{where}: clips.{name}: unknown field; expected one of {', '.join(_JSON_TYPES)}")
            if not isinstance(value, _JSON_TYPES[name]):
                expected = " or ".join(kind.__name__ for kind in _JSON_TYPES[name])
                raise DatasetError(f"{where}: clips.{name}: expected {expected}, got {value!r:.100}")
        try:
            return cls(**values)
        except UsageError as error:
            raise DatasetError(f"{where}: clips: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are recorded in a dataset's plan."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Clip:
    """A run of `frames` frames, a multiple of the codec's temporal factor.

    Sampled by time, `frame_stride` is None and frame i is the one displayed at start_s + (frame_start + i) / fps.
    Sampled by count, frame i is the video's frame frame_start + i * frame_stride, and `fps` is the video's rate
    divided by the stride.
    """

    frame_start: int
    frames: int
    fps: float
    frame_stride: int | None


def cut_clips(info: VideoInfo, sampling: ClipSampling, codec: Codec) -> list[Clip]:
    """Return consecutive clips; the last one is shortened to a multiple of the codec's temporal factor.

    When sampling by count, `start_s` and `duration_s` are converted to frame numbers by the average rate.
    Raises RefusedInput: `too_short` if there is no clip, `unsupported_mode` if the timestamps are implausible.
    """
    if info.duration_s > MAX_MEAN_FRAME_S * info.frame_count:
        raise RefusedInput(
            "unsupported_mode", f"{info.frame_count} frames in {info.duration_s:.0f} s: damaged timestamps"
        )
    first, stride, count, fps = _sampled_frames(info, sampling)
    if count > MAX_SAMPLED_FRAMES:
        found = f"{count} frames at {fps:.3g} fps from {info.frame_count} frames in {info.duration_s:.0f} s"
        raise RefusedInput("unsupported_mode", f"{found}, expected at most {MAX_SAMPLED_FRAMES}: damaged timestamps")
    clips = []
    for start in range(0, count, sampling.frames):
        frames = min(sampling.frames, count - start) // codec.temporal_factor * codec.temporal_factor
        if frames:
            clips.append(Clip(first + start * stride, frames, fps, sampling.stride))
    if not clips:
        found = f"{max(count, 0)} frames at {fps:.3g} fps from {sampling.start_s:g} s on, of {info.duration_s:.3f} s"
        raise RefusedInput("too_short", f"{found}; expected at least {codec.temporal_factor}")
    return clips


def _sampled_frames(info: VideoInfo, sampling: ClipSampling) -> tuple[int, int, int, float]:
    """Return the first frame number, the stride, the number of frames and their rate in frames per second."""
    end_s = info.duration_s
    if sampling.duration_s is not None:
        end_s = min(end_s, sampling.start_s + sampling.duration_s)
    if sampling.stride is None:
        assert sampling.fps is not None
        return 0, 1, math.ceil((end_s - sampling.start_s) * sampling.fps - FRAME_ROUNDING), sampling.fps
    first = math.ceil(sampling.start_s * info.fps - FRAME_ROUNDING)
    end = info.frame_count
    if sampling.duration_s is not None:
        end = min(end, math.ceil(end_s * info.fps - FRAME_ROUNDING))
    return first, sampling.stride, math.ceil((end - first) / sampling.stride), info.fps / sampling.stride


def read_clip(
    video: VideoFile, clip: Clip, sampling: ClipSampling, resize: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Return uint8 pixels (T, H, W, 3) of a clip; each frame is resized as soon as it is decoded.

    `resize` turns an image into uint8 pixels (H, W, 3), of one size for all frames.
    Raises RefusedInput `truncated` if the video ends or is damaged before the clip ends.
    """
    import numpy as np

    pixels_THWC = np.empty(0, np.uint8)
    for index, image in enumerate(video.frames_at(_frame_times_s(video, clip, sampling))):
        pixels_HWC = resize(image)
        if index == 0:
            pixels_THWC = np.empty((clip.frames, *pixels_HWC.shape), np.uint8)
        pixels_THWC[index] = pixels_HWC
    return pixels_THWC


def _frame_times_s(video: VideoFile, clip: Clip, sampling: ClipSampling) -> list[float]:
    if clip.frame_stride is None:
        return [sampling.start_s + (clip.frame_start + index) / clip.fps for index in range(clip.frames)]
    start_times_s = video.start_times_s
    indices = range(clip.frame_start, clip.frame_start + clip.frames * clip.frame_stride, clip.frame_stride)
    if indices[-1] >= len(start_times_s):
        raise RefusedInput("truncated", f"{len(start_times_s)} frames, expected frame {indices[-1]}")
    return [start_times_s[index] for index in indices]
