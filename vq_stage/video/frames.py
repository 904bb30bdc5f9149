"""What every kind of video offers, and the two kinds made of images: animations and folders of frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Generic, Protocol, TypeVar

from PIL import Image, UnidentifiedImageError

from shared.errors import RefusedInput
from vq_stage.media.image_decoding import MAX_ASPECT_RATIO, MAX_PIXELS, MIN_SIDE, decode_rgb

ANIMATION_SUFFIXES = frozenset({".gif", ".apng", ".png", ".webp"})  # the last two may be still images as well
UNSTATED_DURATION_S = 0.1  # what browsers give a frame of 0 ms
MILLISECOND_ROUNDING_S = 0.51e-3

FrameT = TypeVar("FrameT")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Size in pixels as displayed, so after rotation; `fps` is the average rate of the frames there are."""

    height: int
    width: int
    fps: float
    duration_s: float
    frame_count: int


@dataclass(frozen=True, slots=True)
class TimedFrame(Generic[FrameT]):
    """A frame and when it is shown, in seconds after the first; `end_s` by its own duration."""

    start_s: float
    end_s: float
    frame: FrameT


class VideoFile(Protocol):
    """A video of any kind. Time 0 is where its first frame starts; everything raises RefusedInput."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def starts_s(self) -> Sequence[float]:
        """When each frame starts, ascending; may have to read the file to its end, without decoding."""
        ...

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        """The upright RGB frame shown at each of these ascending times; one is held at a time."""
        ...


def check_size(height: int, width: int) -> None:
    """The limits of still images. Raises RefusedInput: `too_large`, `too_small` or `aspect_ratio`."""
    if width * height > MAX_PIXELS:
        raise RefusedInput("too_large", f"{height}×{width} pixels, at most {MAX_PIXELS} in all")
    if min(height, width) < MIN_SIDE:
        raise RefusedInput("too_small", f"{height}×{width} pixels, expected sides of at least {MIN_SIDE}")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise RefusedInput("aspect_ratio", f"{height}×{width} pixels, expected at most 1:{MAX_ASPECT_RATIO:g}")


def on_white(image: Image.Image) -> Image.Image:
    """RGB, with transparency laid on white."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def shown_at(
    frames: Iterable[TimedFrame[FrameT]], times_s: Sequence[float], tolerance_s: float = 1e-6
) -> Iterator[FrameT]:
    """For each of these ascending times the last frame started by then, `tolerance_s` allowed.

    Reads no further than the frame after the last one wanted. Raises RefusedInput `truncated` if the frames end
    before a time and the last of them does not last until it.
    """
    held: TimedFrame[FrameT] | None = None
    served = 0
    for frame in frames:
        while held is not None and served < len(times_s) and times_s[served] + tolerance_s < frame.start_s:
            yield held.frame
            served += 1
        if served == len(times_s):
            return
        held = frame
    for time_s in times_s[served:]:
        if held is None or time_s >= held.end_s + tolerance_s:
            end_s = held.end_s if held else 0.0
            raise RefusedInput("truncated", f"ends at {end_s:.3f} s, expected a frame at {time_s:.3f} s")
        yield held.frame


class Animation:
    """An animated GIF, WebP or PNG. Its frames build on each other, so reading always begins at the first."""

    def __init__(self, file: BinaryIO):
        self._file = file

    @cached_property
    def info(self) -> VideoInfo:
        height, width = self._size()
        duration_s = self._spans_s[-1][1]
        return VideoInfo(height, width, len(self._spans_s) / duration_s, duration_s, len(self._spans_s))

    @property
    def starts_s(self) -> Sequence[float]:
        return [start_s for start_s, _ in self._spans_s]

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        self._size()
        return shown_at(self._frames(on_white), times_s, MILLISECOND_ROUNDING_S)

    @cached_property
    def _spans_s(self) -> list[tuple[float, float]]:
        spans_s = [(timed.start_s, timed.end_s) for timed in self._frames(lambda image: None)]
        if not spans_s:
            raise RefusedInput("too_short", "no frames")
        return spans_s

    def _size(self) -> tuple[int, int]:
        """(height, width) from the header, within the limits."""
        self._file.seek(0)
        try:
            with Image.open(self._file) as image:
                width, height = image.size
        except UnidentifiedImageError as error:
            raise RefusedInput("not_a_video", "no animation that Pillow knows") from error
        except MemoryError:
            raise
        except Exception as error:
            raise RefusedInput("truncated", f"the header cannot be read: {error!r:.200}") from error
        check_size(height, width)
        return height, width

    def _frames(self, take: Callable[[Image.Image], FrameT]) -> Iterator[TimedFrame[FrameT]]:
        """Every frame, with what `take` makes of it while it is loaded."""
        self._file.seek(0)
        start_ms = 0.0
        try:
            with Image.open(self._file) as image:
                first = 1 if image.info.get("default_image") else 0  # a PNG's stand-in for those who cannot animate
                for index in range(first, getattr(image, "n_frames", 1)):
                    image.seek(index)
                    image.load()  # a WebP tells the duration only then
                    end_ms = start_ms + (float(image.info.get("duration") or 0) or 1000 * UNSTATED_DURATION_S)
                    yield TimedFrame(start_ms / 1000, end_ms / 1000, take(image))
                    start_ms = end_ms
        except (RefusedInput, MemoryError):
            raise
        except Exception as error:
            raise RefusedInput("truncated", f"cannot be read after {start_ms / 1000:.3f} s: {error!r:.200}") from error


@dataclass(frozen=True, slots=True)
class FrameFile:
    """One numbered image of a folder, and how to open it."""

    name: str
    open: Callable[[], BinaryIO]

    def read(self) -> Image.Image:
        """Upright RGB pixels. Raises RefusedInput naming the frame."""
        try:
            with self.open() as file:
                data = file.read()
            if not data:
                raise RefusedInput("empty", "the file has no bytes")
            return decode_rgb(data)
        except RefusedInput as refused:
            raise RefusedInput(refused.reason, f"{self.name}: {refused.detail}") from refused
        except FileNotFoundError as error:
            raise RefusedInput("missing", f"{self.name}: the file is not there") from error
        except OSError as error:
            raise RefusedInput("unreadable", f"{self.name}: {error.strerror or error}") from error


class FrameFolder:
    """Images in the natural order of their names (frame 9 before frame 10), shown at an even rate."""

    def __init__(self, frames: Sequence[FrameFile], fps: float = 8.0):
        self._frames = sorted(frames, key=lambda frame: natural_order(frame.name))
        self._fps = fps

    @cached_property
    def info(self) -> VideoInfo:
        """From the first image. Raises RefusedInput; `too_short` if there is none."""
        if not self._frames:
            raise RefusedInput("too_short", "no frames in the folder")
        width, height = self._frames[0].read().size
        count = len(self._frames)
        return VideoInfo(height, width, self._fps, count / self._fps, count)

    @property
    def starts_s(self) -> Sequence[float]:
        return [index / self._fps for index in range(len(self._frames))]

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        """Raises RefusedInput `bad_size` for a frame that differs from the first."""
        files = (TimedFrame(i / self._fps, (i + 1) / self._fps, file) for i, file in enumerate(self._frames))
        for file in shown_at(files, times_s):
            image = file.read()
            if image.size != (self.info.width, self.info.height):
                found, expected = f"{image.height}×{image.width}", f"{self.info.height}×{self.info.width}"
                raise RefusedInput("bad_size", f"{file.name}: {found} pixels, expected {expected} as the first frame")
            yield image


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that counts: numbers in a name compare by value, the name itself breaks ties."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], name


def is_animation(head: bytes) -> bool:
    """Whether a file's first twelve bytes are those of a GIF, PNG or WebP, animated or not."""
    return head.startswith((b"GIF8", b"\x89PNG")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def read_head(file: BinaryIO) -> bytes:
    """The first twelve bytes. Raises RefusedInput: `empty` or `unreadable`."""
    try:
        file.seek(0)
        head = file.read(12)
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    if not head:
        raise RefusedInput("empty", "the file has no bytes")
    return head
