"""Folders of numbered images that are the frames of one video."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import BinaryIO

from PIL import Image

from shared.errors import RefusedInput
from vq_stage.media.image_decoding import decode_rgb, read_bytes
from vq_stage.video.video_file import TimedFrame, VideoInfo, frames_displayed_at


@dataclass(frozen=True, slots=True)
class FrameFile:
    """One image of a folder: its name, and a function that opens it or raises RefusedInput."""

    name: str
    open: Callable[[], BinaryIO]

    def read(self) -> Image.Image:
        """Return upright RGB pixels. Raises RefusedInput naming the file."""
        try:
            with self.open() as file:
                return decode_rgb(read_bytes(file))
        except RefusedInput as refused:
            raise RefusedInput(refused.reason, f"{self.name}: {refused.detail}") from refused


class FrameFolder:
    """A folder of images as a VideoFile: in natural order of their names, displayed at a constant rate."""

    def __init__(self, frames: Sequence[FrameFile], fps: float):
        self._frames = sorted(frames, key=lambda frame: natural_sort_key(frame.name))
        self._fps = fps

    @cached_property
    def info(self) -> VideoInfo:
        """Size of the first image. Raises RefusedInput; `too_short` if there are no images."""
        if not self._frames:
            raise RefusedInput("too_short", "the folder has no frames")
        width, height = self._frames[0].read().size
        frames = len(self._frames)
        return VideoInfo(height, width, self._fps, frames / self._fps, frames)

    @property
    def start_times_s(self) -> Sequence[float]:
        return [index / self._fps for index in range(len(self._frames))]

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        """See VideoFile. Raises RefusedInput `bad_size` for a frame whose size differs from the first."""
        first = max(0, math.floor(times_s[0] * self._fps) - 1)  # a folder may have a million frames
        numbered = zip(count(first), islice(self._frames, first, None))
        files = (TimedFrame(i / self._fps, (i + 1) / self._fps, file) for i, file in numbered)
        for file in frames_displayed_at(files, times_s):
            image = file.read()
            if image.size != (self.info.width, self.info.height):
                found, expected = f"{image.height}×{image.width}", f"{self.info.height}×{self.info.width}"
                raise RefusedInput("bad_size", f"{file.name}: {found} pixels, expected {expected} as the first frame")
            yield image


def natural_sort_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares numbers by value: frame 9 before frame 10. The name itself breaks ties."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], name
