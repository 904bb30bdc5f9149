"""Reading and resizing of planned inputs, by several threads ahead of the device."""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shared.codec import Codec
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import READ_TIMEOUT, WORKER_DIED
from shared.dataset.rows import CodeRecord
from shared.errors import RefusedInput
from vq_stage.media.image_decoding import decode_rgb, read_bytes
from vq_stage.media.resizing import Preprocessing
from vq_stage.sources.media_source import MediaSource
from vq_stage.video.clips import Clip, ClipSampling, read_clip
from vq_stage.video.open_video import OpenVideos

_HASHED_VIDEOS = 16  # whose digests are remembered for their other clips


class ReadTask(NamedTuple):
    """One input to read; a `is_poison` input has killed workers and is refused without being opened."""

    unit: Unit
    planned: PlannedInput
    is_poison: bool = False


class PreparedInput(NamedTuple):
    """One input of a unit: uint8 pixels of the unit's size, (H, W, 3) or for a clip (T, H, W, 3); or its refusal.

    `src_h` and `src_w` are the source's height and width in pixels, upright.
    """

    unit: Unit
    planned: PlannedInput
    pixels: np.ndarray
    sha256: bytes = b""
    src_h: int = 0
    src_w: int = 0
    refusal: Refusal | None = None

    def record(self, codes_THW: np.ndarray) -> CodeRecord:
        """Return the row of this input."""
        return CodeRecord(
            key=self.planned.key,
            src_index=self.planned.src_index,
            kind="video" if self.unit.frames > 1 else "image",
            codes_THW=codes_THW,
            text=self.planned.text,
            src_uri=self.planned.uri,
            src_sha256=self.sha256,
            src_h=self.src_h,
            src_w=self.src_w,
            fps=self.planned.fps,
            frame_start=self.planned.frame_start,
            frame_stride=self.planned.frame_stride,
            extra_json=self.planned.extra_json,
        )


class InputReader:
    """Turns planned inputs into pixels. Thread-safe."""

    def __init__(self, source: MediaSource, codec: Codec, preprocessing: Preprocessing, sampling: ClipSampling):
        self.source = source
        self.codec = codec
        self.preprocessing = preprocessing
        self.sampling = sampling
        self._videos = OpenVideos(source.video)
        self._sha256_of_video = lru_cache(maxsize=_HASHED_VIDEOS)(source.sha256)
        self._hash_lock = lru_cache(maxsize=_HASHED_VIDEOS)(lambda uri: threading.Lock())

    def close(self) -> None:
        """Close the videos that are kept open for their next clip."""
        self._videos.close()

    def prepare(self, task: ReadTask) -> PreparedInput:
        """Read one input; a bad input is returned with its refusal, not raised."""
        unit, planned = task.unit, task.planned
        try:
            if task.is_poison:
                raise RefusedInput(WORKER_DIED, "the worker died each time it reached this input")
            if planned.refused_reason is not None:
                raise RefusedInput(planned.refused_reason, planned.refused_detail or "")
            return self._clip(unit, planned) if unit.frames > 1 else self._image(unit, planned)
        except RefusedInput as refused:
            return _refused(task, refused)

    def give_up(self, task: ReadTask) -> PreparedInput:
        """Return the refusal of an input that takes too long to read."""
        return _refused(task, RefusedInput(READ_TIMEOUT, "it was not read in time; see --read-timeout"))

    def _image(self, unit: Unit, planned: PlannedInput) -> PreparedInput:
        with self.source.open(planned.uri, planned.locator) as file:
            data = read_bytes(file)
        image = decode_rgb(data)
        self._check_size(unit, image.height, image.width)
        pixels_HWC = self.preprocessing.resize(image, unit.height, unit.width)
        return PreparedInput(unit, planned, pixels_HWC, hashlib.sha256(data).digest(), image.height, image.width)

    def _clip(self, unit: Unit, planned: PlannedInput) -> PreparedInput:
        assert planned.frame_start is not None, "every planned clip has a first frame"
        fps = self.sampling.fps or planned.fps or 0.0  # the plan stores it in single precision
        clip = Clip(planned.frame_start, unit.frames, fps, planned.frame_stride)
        with self._videos.open(planned.uri, planned.locator, planned.extra_json) as video:
            info = video.info
            self._check_size(unit, info.height, info.width)
            pixels_THWC = read_clip(
                video, clip, self.sampling, lambda image: self.preprocessing.resize(image, unit.height, unit.width)
            )
        with self._hash_lock(planned.uri):  # hashes a video once, not once per clip and thread
            sha256 = self._sha256_of_video(planned.uri, planned.locator)
        return PreparedInput(unit, planned, pixels_THWC, sha256, info.height, info.width)

    def _check_size(self, unit: Unit, src_h: int, src_w: int) -> None:
        """Raises RefusedInput `changed` if a source of this size is no longer encoded at the unit's."""
        if self.preprocessing.target_size(src_h, src_w, self.codec) != (unit.height, unit.width):
            raise RefusedInput(
                "changed",
                f"{src_h}×{src_w} pixels, planned to be encoded at {unit.height}×{unit.width}: the file has changed"
                " since planning",
            )


def _refused(task: ReadTask, refused: RefusedInput) -> PreparedInput:
    planned = task.planned
    refusal = Refusal(planned.key, planned.src_index, planned.uri, refused.reason, refused.detail)
    return PreparedInput(task.unit, planned, np.zeros((0, 0, 3), np.uint8), refusal=refusal)
