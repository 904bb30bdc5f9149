"""Which size an image is encoded at, and bringing it there.

Rules: `processor` is the published image processor's (pixels within [512², 1024²]), `area` the published data
preparation's (scale to an area), `none` takes images as they are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from shared.codec import SPATIAL_FACTOR
from shared.errors import RefusedInput, UsageError

RULES = ("processor", "area", "none")
MIN_PIXELS, MAX_PIXELS = 512 * 512, 1024 * 1024
MAX_SIDE = 65528
GENERATION_AREA = 720 * 720  # of the published preparation, for images to generate


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images are resized: by rule `area` to `area` pixels, or 720². `round_to`: sides become multiples of it, a
    multiple of 8 pixels; larger values snap images to fewer sizes, so fewer graphs are compiled, at the price of a
    slight squeeze.
    """

    rule: str = "processor"
    area: int | None = None
    round_to: int = SPATIAL_FACTOR

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"--resize {self.rule!r}: expected one of {', '.join(RULES)}")
        if self.round_to < SPATIAL_FACTOR or self.round_to % SPATIAL_FACTOR:
            raise UsageError(f"--round-to {self.round_to}: expected a multiple of {SPATIAL_FACTOR}")
        if self.area is not None and self.rule != "area":
            raise UsageError("--area needs --resize area: with the others, nothing is scaled to it")
        if self.rule == "area" and self.pixels < self.round_to**2:
            raise UsageError(f"--area {self.pixels}: expected at least {self.round_to**2} pixels")
        if self.rule == "none" and self.round_to != SPATIAL_FACTOR:
            raise UsageError("--round-to needs --resize processor or area: with none, sizes are not changed")

    @property
    def pixels(self) -> int:
        """What rule `area` scales to."""
        return GENERATION_AREA if self.area is None else self.area

    def recorded(self) -> dict[str, Any]:
        values = {**asdict(self), "area": self.pixels, "filter": "bicubic", "transparency": "white"}
        return values if self.rule == "area" else {name: v for name, v in values.items() if name != "area"}

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to encode at. Raises RefusedInput `bad_size` if there is none."""
        if self.rule == "none":
            if height % SPATIAL_FACTOR or width % SPATIAL_FACTOR:
                raise RefusedInput(
                    "bad_size", f"{height}×{width}: expected multiples of {SPATIAL_FACTOR} with --resize none"
                )
            size = height, width
        elif self.rule == "area":
            size = _area_size(height, width, self.pixels, self.round_to)
        else:
            size = _processor_size(height, width, self.round_to)
        if min(size) < SPATIAL_FACTOR or max(size) > MAX_SIDE:
            raise RefusedInput("bad_size", f"{height}×{width} would become {size[0]}×{size[1]}")
        return size

    def resize(self, image: Image.Image, height: int, width: int) -> np.ndarray:
        """uint8 pixels (height, width, 3)."""
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image)


def _area_size(height: int, width: int, area: int, multiple: int) -> tuple[int, int]:
    scale = math.sqrt(area / (height * width))
    return round(height * scale / multiple) * multiple, round(width * scale / multiple) * multiple


def _processor_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    rounded = round(height / multiple) * multiple, round(width / multiple) * multiple
    pixels = rounded[0] * rounded[1]
    if pixels > MAX_PIXELS:
        shrink = math.sqrt(height * width / MAX_PIXELS)
        return math.floor(height / shrink / multiple) * multiple, math.floor(width / shrink / multiple) * multiple
    if pixels < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * grow / multiple) * multiple, math.ceil(width * grow / multiple) * multiple
    return rounded
