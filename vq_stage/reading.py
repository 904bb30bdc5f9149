"""Reading and resizing one planned input, ahead of the device."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from shared.dataset import Refusal
from shared.errors import RefusedInput
from shared.plan import PlannedInput, Unit
from shared.records import CodeRecord
from vq_stage.images import decode_rgb, read_bytes
from vq_stage.preprocess import Preprocessing
from vq_stage.sources import Source


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One input of a unit: pixels (H, W, 3) uint8 at the unit's size, or the refusal."""

    unit: Unit
    planned: PlannedInput
    pixels_HWC: np.ndarray
    sha256: bytes = b""
    src_h: int = 0
    src_w: int = 0
    refusal: Refusal | None = None

    def record(self, codes_THW: np.ndarray) -> CodeRecord:
        """The row of this input, once its codes are known."""
        return CodeRecord(
            key=self.planned.key,
            src_index=self.planned.src_index,
            kind="image",
            codes_THW=codes_THW,
            text=self.planned.text,
            src_uri=self.planned.uri,
            src_sha256=self.sha256,
            src_h=self.src_h,
            src_w=self.src_w,
        )


class InputReader:
    """Turns planned inputs into pixels; safe to call from several threads."""

    def __init__(self, source: Source, preprocessing: Preprocessing):
        self.source = source
        self.preprocessing = preprocessing

    def prepare(self, task: tuple[Unit, PlannedInput]) -> Prepared:
        """Never raises for a bad input: the reason is in `refusal`."""
        unit, planned = task
        try:
            return self._read(unit, planned)
        except RefusedInput as refused:
            refusal = Refusal(planned.key, planned.src_index, planned.uri, refused.reason, refused.detail)
            return Prepared(unit, planned, np.zeros((0, 0, 3), np.uint8), refusal=refusal)

    def _read(self, unit: Unit, planned: PlannedInput) -> Prepared:
        if planned.refused_reason is not None:
            raise RefusedInput(planned.refused_reason, planned.refused_detail or "")
        data = read_bytes(self.source.path(planned.uri))
        image = decode_rgb(data)
        src_w, src_h = image.size
        size = self.preprocessing.target_size(src_h, src_w)
        if size != (unit.height, unit.width):
            raise RefusedInput(
                "changed", f"{src_h}×{src_w} pixels now, planned as {unit.height}×{unit.width}: the file was changed"
            )
        pixels_HWC = self.preprocessing.resize(image, *size)
        return Prepared(unit, planned, pixels_HWC, hashlib.sha256(data).digest(), src_h, src_w)
