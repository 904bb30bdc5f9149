"""The frames of an animated GIF, WebP or PNG: size, number and display times, from its chunks, without decoding any."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from shared.errors import RefusedInput
from vq_stage.media.chunks import GIF_CONTROL, GIF_IMAGE, gif_blocks, is_webp, png_chunks, webp_chunks
from vq_stage.media.image_decoding import check_size
from vq_stage.video.video_file import read_signature

DEFAULT_FRAME_MS = 100.0  # what browsers use for a frame of 0 ms
MILLISECOND_ROUNDING_S = 0.51e-3
MAX_CANVAS_PIXELS = 1 << 24  # a decoder holds several canvases
MAX_ANIMATION_PIXELS = 1 << 31  # over all frames, each of which counts as at least MIN_FRAME_PIXELS
MIN_FRAME_PIXELS = 1 << 16


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """One frame: its duration in milliseconds, and how far to the right and down it reaches, in pixels."""

    duration_ms: float
    right: int = 0
    bottom: int = 0


class AnimationIndex:
    """Frame i is displayed from `start_times_s[i]` on, the last one until `end_s`.

    `first` is the number of the first frame as Pillow counts them: the first image of a PNG may not belong to its
    animation.
    """

    def __init__(self, durations_ms: Sequence[float], height: int, width: int, first: int = 0):
        ends_ms = list(accumulate(duration_ms or DEFAULT_FRAME_MS for duration_ms in durations_ms))
        self.start_times_s = [0.0, *(end_ms / 1000 for end_ms in ends_ms[:-1])]
        self.end_s = ends_ms[-1] / 1000
        self.height, self.width, self.first = height, width, first

    @classmethod
    def of_file(cls, file: BinaryIO, height: int, width: int) -> AnimationIndex:
        """Read the chunks of a file whose header states a size in pixels.

        Raises RefusedInput: `too_short`, `truncated`, or `too_large` for an animation over the limits, as soon as they
        are exceeded.
        """
        check_size(height, width, MAX_CANVAS_PIXELS)
        durations_ms: list[float] = []
        frames, first = _stored_frames(file)
        for frame in frames:
            height, width = max(height, frame.bottom), max(width, frame.right)
            check_size(height, width, MAX_CANVAS_PIXELS)
            durations_ms.append(frame.duration_ms)
            if len(durations_ms) * max(height * width, MIN_FRAME_PIXELS) > MAX_ANIMATION_PIXELS:
                raise RefusedInput(
                    "too_large",
                    f"more than {len(durations_ms) - 1} frames of {height}×{width} pixels, expected at most"
                    f" {MAX_ANIMATION_PIXELS} pixels in all frames together, and {MIN_FRAME_PIXELS} count for a frame",
                )
        if not durations_ms:
            raise RefusedInput("too_short", "the file has no frames")
        return cls(durations_ms, height, width, first)

    def frames_displayed_at(self, times_s: Sequence[float]) -> Iterator[int]:
        """Yield the number of the frame displayed at each time. Raises RefusedInput `truncated` after the end."""
        for time_s in times_s:
            if time_s >= self.end_s + MILLISECOND_ROUNDING_S:
                raise RefusedInput(
                    "truncated", f"the animation ends at {self.end_s:.3f} s, expected a frame at {time_s:.3f} s"
                )
            yield bisect_right(self.start_times_s, time_s + MILLISECOND_ROUNDING_S) - 1


def _stored_frames(file: BinaryIO) -> tuple[Iterator[StoredFrame], int]:
    """Return the frames, and the number of the first one in Pillow's count."""
    signature = read_signature(file)
    if signature.startswith(b"GIF8"):
        return _gif_frames(file), 0
    if is_webp(signature):
        return _webp_frames(file), 0
    count, has_other_image = _png_header(file)
    return _png_frames(file, count), int(has_other_image)


def _gif_frames(file: BinaryIO) -> Iterator[StoredFrame]:
    duration_ms = 0
    for block in gif_blocks(file):
        values = block.read(file, 9)
        if block.kind == GIF_CONTROL:
            duration_ms = 10 * int.from_bytes(values[2:4], "little")
        elif block.kind == GIF_IMAGE:
            left, top, width, height = (int.from_bytes(values[at : at + 2], "little") for at in (0, 2, 4, 6))
            yield StoredFrame(duration_ms, left + width, top + height)
            duration_ms = 0


def _webp_frames(file: BinaryIO) -> Iterator[StoredFrame]:
    has_frames = False
    for chunk in webp_chunks(file):
        if chunk.kind == b"ANMF":
            has_frames = True
            yield StoredFrame(int.from_bytes(chunk.read(file, 15)[12:], "little"))
        elif chunk.kind in (b"VP8 ", b"VP8L") and not has_frames:
            yield StoredFrame(0)


def _png_header(file: BinaryIO) -> tuple[int, bool]:
    """Return the stated number of frames, 0 for a still image, and whether the first image is not one of them."""
    count = 0
    for chunk in png_chunks(file):
        if chunk.kind == b"acTL":
            count = int.from_bytes(chunk.read(file, 4), "big")
        elif chunk.kind == b"fcTL":
            return count, False
        elif chunk.kind == b"IDAT":
            return count, bool(count)
    return count, False


def _png_frames(file: BinaryIO, count: int) -> Iterator[StoredFrame]:
    if not count:
        yield StoredFrame(0)
        return
    missing = count
    for chunk in png_chunks(file):
        if chunk.kind == b"fcTL" and missing:
            values = chunk.read(file, 24)
            numerator, denominator = (int.from_bytes(values[at : at + 2], "big") for at in (20, 22))
            yield StoredFrame(float(numerator) / float(denominator or 100) * 1000)
            missing -= 1
    if missing:
        raise RefusedInput("truncated", f"{count - missing} frames, the header states {count}")
