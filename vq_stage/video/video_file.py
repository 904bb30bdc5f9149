"""The interface that every kind of video implements, and the types it is made of.

Time 0 of a video is when its first frame is displayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Generic, Protocol, TypeVar

from shared.errors import RefusedInput

if TYPE_CHECKING:
    from PIL import Image

SIGNATURE_BYTES = 12

FrameT = TypeVar("FrameT")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Size in pixels as displayed, that is after rotation; `fps` is the average rate of the frames in the file."""

    height: int
    width: int
    fps: float
    duration_s: float
    frame_count: int


@dataclass(frozen=True, slots=True)
class TimedFrame(Generic[FrameT]):
    """A frame with its display interval in seconds; `end_s` follows from the frame's own duration."""

    start_s: float
    end_s: float
    frame: FrameT


class VideoFile(Protocol):
    """A video of any kind. All members raise RefusedInput for a video that cannot be read."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def start_times_s(self) -> Sequence[float]:
        """Start time of each frame in seconds, ascending. May read the file to its end, without decoding it."""
        ...

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        """Yield the upright RGB frame displayed at each of these ascending times, holding one frame at a time."""
        ...


def frames_displayed_at(
    frames: Iterable[TimedFrame[FrameT]], times_s: Sequence[float], tolerance_s: float = 1e-6
) -> Iterator[FrameT]:
    """Yield, for each of these ascending times, the last frame that starts no later than `tolerance_s` after it.

    Reads no further than one frame past the last one needed. Raises RefusedInput `truncated` if the last frame ends
    before one of the times.
    """
    current: TimedFrame[FrameT] | None = None
    served = 0
    for frame in frames:
        while current is not None and served < len(times_s) and times_s[served] + tolerance_s < frame.start_s:
            yield current.frame
            served += 1
        if served == len(times_s):
            return
        current = frame
    for time_s in times_s[served:]:
        if current is None or time_s >= current.end_s + tolerance_s:
            end_s = current.end_s if current else 0.0
            raise RefusedInput("truncated", f"the video ends at {end_s:.3f} s, expected a frame at {time_s:.3f} s")
        yield current.frame


def read_signature(file: BinaryIO) -> bytes:
    """Return the first twelve bytes of a file. Raises RefusedInput: `empty` or `unreadable`."""
    try:
        file.seek(0)
        signature = file.read(SIGNATURE_BYTES)
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    if not signature:
        raise RefusedInput("empty", "the file has no bytes")
    return signature
