"""Reading and resizing one planned input, ahead of the device."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.rows import CodeRecord
from shared.errors import RefusedInput
from vq_stage.media.image_decoding import decode_rgb
from vq_stage.media.resizing import Preprocessing
from vq_stage.sources.media_source import MediaSource
from vq_stage.video.clips import Clip, ClipSampling, read_clip

ReadTask = tuple[Unit, PlannedInput, bool]  # True: the input killed workers, and is not to be touched


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One input of a unit, uint8 at the unit's size: pixels (H, W, 3), of a clip (T, H, W, 3); or the refusal."""

    unit: Unit
    planned: PlannedInput
    pixels: np.ndarray
    sha256: bytes = b""
    src_h: int = 0
    src_w: int = 0
    refusal: Refusal | None = None

    def record(self, codes_THW: np.ndarray) -> CodeRecord:
        """The row of this input, once its codes are known."""
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
    """Turns planned inputs into pixels; safe to call from several threads."""

    def __init__(self, source: MediaSource, preprocessing: Preprocessing, sampling: ClipSampling):
        self.source = source
        self.preprocessing = preprocessing
        self.sampling = sampling
        self._hashing = threading.Lock()
        self._sha256_of_video = lru_cache(maxsize=16)(source.sha256)

    def prepare(self, task: ReadTask) -> Prepared:
        """Never raises for a bad input: the reason is in `refusal`."""
        unit, planned, is_poisonous = task
        try:
            if is_poisonous:
                raise RefusedInput(WORKER_DIED, "the worker died each time it came to this input")
            if planned.refused_reason is not None:
                raise RefusedInput(planned.refused_reason, planned.refused_detail or "")
            return self._clip(unit, planned) if unit.frames > 1 else self._image(unit, planned)
        except RefusedInput as refused:
            refusal = Refusal(planned.key, planned.src_index, planned.uri, refused.reason, refused.detail)
            return Prepared(unit, planned, np.zeros((0, 0, 3), np.uint8), refusal=refusal)

    def _image(self, unit: Unit, planned: PlannedInput) -> Prepared:
        with self.source.open(planned.uri, planned.locator) as file:
            data = file.read()
        image = decode_rgb(data)
        src_w, src_h = image.size
        size = self._checked_size(unit, src_h, src_w)
        pixels_HWC = self.preprocessing.resize(image, *size)
        return Prepared(unit, planned, pixels_HWC, hashlib.sha256(data).digest(), src_h, src_w)

    def _clip(self, unit: Unit, planned: PlannedInput) -> Prepared:
        assert planned.frame_start is not None, "a planned clip says where it begins"
        fps = self.sampling.fps or planned.fps or 0.0  # a plan has it in single precision
        clip = Clip(planned.frame_start, unit.frames, fps, planned.frame_stride)
        with self.source.video(planned.uri, planned.locator, planned.extra_json) as video:
            info = video.info
            height, width = self._checked_size(unit, info.height, info.width)
            pixels_THWC = read_clip(
                video, clip, self.sampling, lambda image: self.preprocessing.resize(image, height, width)
            )
        with self._hashing:  # once a video, not once a clip and thread
            sha256 = self._sha256_of_video(planned.uri, planned.locator)
        return Prepared(unit, planned, pixels_THWC, sha256, info.height, info.width)

    def _checked_size(self, unit: Unit, src_h: int, src_w: int) -> tuple[int, int]:
        size = self.preprocessing.target_size(src_h, src_w)
        if size != (unit.height, unit.width):
            raise RefusedInput(
                "changed", f"{src_h}×{src_w} pixels now, planned as {unit.height}×{unit.width}: the file was changed"
            )
        return size
