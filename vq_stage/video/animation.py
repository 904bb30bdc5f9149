"""Animated GIF, WebP and PNG files, decoded by Pillow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import BinaryIO

from PIL import Image

from shared.errors import RefusedInput
from vq_stage.media.image_decoding import check_size, flatten_on_white, refusing_damage
from vq_stage.video.video_file import FrameT, TimedFrame, VideoInfo, frames_displayed_at

DEFAULT_FRAME_MS = 100.0  # what browsers use for a frame of 0 ms
MILLISECOND_ROUNDING_S = 0.51e-3

logger = logging.getLogger(__name__)


def is_animation(signature: bytes) -> bool:
    """Return whether a file's first twelve bytes are those of a GIF, PNG or WebP, animated or not."""
    return signature.startswith((b"GIF8", b"\x89PNG")) or (signature[:4] == b"RIFF" and signature[8:12] == b"WEBP")


class Animation:
    """An animated image as a VideoFile.

    Each frame builds on the frames before it, so every read starts at the first. Pillow raises exceptions of many types
    for damaged files, so all of them become a refusal; their tracebacks go to the debug log.
    """

    def __init__(self, file: BinaryIO):
        self._file = file

    @cached_property
    def info(self) -> VideoInfo:
        height, width = self._size()
        duration_s = self._intervals_s[-1][1]
        return VideoInfo(height, width, len(self._intervals_s) / duration_s, duration_s, len(self._intervals_s))

    @property
    def start_times_s(self) -> Sequence[float]:
        return [start_s for start_s, _ in self._intervals_s]

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        self._size()
        return frames_displayed_at(self._frames(flatten_on_white), times_s, MILLISECOND_ROUNDING_S)

    @cached_property
    def _intervals_s(self) -> list[tuple[float, float]]:
        """Display interval (start, end) of every frame."""
        intervals_s = [(timed.start_s, timed.end_s) for timed in self._frames(lambda image: None)]
        if not intervals_s:
            raise RefusedInput("too_short", "the file has no frames")
        return intervals_s

    def _size(self) -> tuple[int, int]:
        """Return (height, width) from the header, checked against the limits."""
        self._file.seek(0)
        with refusing_damage("truncated", unidentified="not_a_video"), Image.open(self._file) as image:
            width, height = image.size
        check_size(height, width)
        return height, width

    def _frames(self, convert: Callable[[Image.Image], FrameT]) -> Iterator[TimedFrame[FrameT]]:
        """Yield every frame as `convert` returns it, called while the frame is loaded."""
        self._file.seek(0)
        start_ms = 0.0
        try:
            with Image.open(self._file) as image:
                first = 1 if image.info.get("default_image") else 0  # an APNG's still for viewers without animation
                for index in range(first, getattr(image, "n_frames", 1)):
                    image.seek(index)
                    image.load()  # a WebP has its duration only after this
                    end_ms = start_ms + (float(image.info.get("duration") or 0) or DEFAULT_FRAME_MS)
                    yield TimedFrame(start_ms / 1000, end_ms / 1000, convert(image))
                    start_ms = end_ms
        except (RefusedInput, MemoryError):
            raise
        except Exception as error:
            logger.debug("a frame of an animation cannot be read", exc_info=True)
            raise RefusedInput("truncated", f"cannot be read after {start_ms / 1000:.3f} s: {error!r:.200}") from error
