"""Animated GIF, WebP and PNG files, decoded by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, BinaryIO

from PIL import Image

from shared.errors import RefusedInput
from vq_stage.media.chunks import PNG_SIGNATURE, is_webp
from vq_stage.media.image_decoding import flatten_on_white, open_image, read_bytes, refusing_damage
from vq_stage.media.metadata import without_metadata
from vq_stage.video.animation_index import AnimationIndex
from vq_stage.video.video_file import VideoInfo


def is_animation(signature: bytes) -> bool:
    """Return whether a file's first twelve bytes are those of a GIF, PNG or WebP, animated or not."""
    return signature.startswith((b"GIF8", b"\x89PNG")) or is_webp(signature)


class Animation:
    """An animated image as a VideoFile.

    Each frame builds on those before it. The decoder therefore stays where it is after a read, and a later read goes on
    from there unless it needs an earlier frame.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decoder: Any = None  # Pillow's image, whose current frame is number `_current`
        self._current = -1
        self._damage: RefusedInput | None = None  # of the frame after `_current`

    @cached_property
    def info(self) -> VideoInfo:
        index = self._index
        count = len(index.start_times_s)
        return VideoInfo(index.height, index.width, count / index.end_s, index.end_s, count)

    @property
    def start_times_s(self) -> Sequence[float]:
        return self._index.start_times_s

    def frames_at(self, times_s: Sequence[float]) -> Iterator[Image.Image]:
        image, shown = None, -1
        for number in self._index.frames_displayed_at(times_s):
            if image is None or number != shown:
                image, shown = self._decode(number), number
            yield image

    @cached_property
    def _index(self) -> AnimationIndex:
        with refusing_damage("truncated", unidentified="not_a_video"):
            with self._opened() as image:
                width, height = image.size
            return AnimationIndex.of_file(self._file, height, width)

    def _opened(self) -> Image.Image:
        self._file.seek(0)
        if self._file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            self._file.seek(0)
            return open_image(self._file)
        self._file.seek(0)
        bare = without_metadata(read_bytes(self._file))
        return open_image(io.BytesIO(bare or b""))

    def _decode(self, number: int) -> Image.Image:
        """Return a frame, decoded on from the current one if possible. Raises RefusedInput."""
        if number < self._current:
            self._decoder, self._current, self._damage = None, -1, None
        if self._damage is not None:
            raise self._damage
        try:
            with refusing_damage("truncated", unidentified="not_a_video"):
                while self._decoder is None or self._current < number:
                    self._advance()
                return flatten_on_white(self._decoder)
        except RefusedInput as refused:
            self._damage = refused
            raise

    def _advance(self) -> None:
        if self._decoder is None:
            self._decoder = self._opened()
        self._decoder.seek(self._index.first + self._current + 1)
        self._decoder.load()
        self._current += 1
