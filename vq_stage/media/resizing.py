"""Resizing rules: at which size an image is encoded.

`processor` is the rule of the published image processor (between 512² and 1024² pixels), `area` that of the published
data preparation (scale to an area), `none` keeps the size of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shared.codec import SPATIAL_FACTOR
from shared.errors import DatasetError, RefusedInput, UsageError

if TYPE_CHECKING:  # this module holds defaults of options, so it loads no library
    import numpy as np
    from PIL import Image

RULES = ("processor", "area", "none")
MIN_PIXELS, MAX_PIXELS = 512 * 512, 1024 * 1024
MAX_SIDE = 65528  # in pixels; sizes are stored as uint16
GENERATION_AREA = 720 * 720  # the published preparation's, for text-to-image training


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images are resized.

    `area` is the number of pixels that rule `area` scales to, by default 720². `round_to` is a multiple of 8 pixels;
    both sides become multiples of it. Larger values give fewer sizes, and so fewer graphs to compile, at the price of
    a slightly changed aspect ratio. Raises UsageError, naming the command-line option, for values that cannot work.
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
            raise UsageError("--area needs --resize area; the other rules have no target area")
        if self.rule == "area" and self.pixels < self.round_to**2:
            raise UsageError(f"--area {self.pixels}: expected at least {self.round_to**2} pixels")
        if self.rule == "none" and self.round_to != SPATIAL_FACTOR:
            raise UsageError("--round-to needs --resize processor or area; --resize none does not change sizes")

    @property
    def pixels(self) -> int:
        """The number of pixels that rule `area` scales to."""
        return GENERATION_AREA if self.area is None else self.area

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Preprocessing:
        """Build from what `to_json` returned. Raises DatasetError, naming `where` and the field."""
        for name in ("area", "round_to"):
            if not isinstance(values.get(name, 0), int):
                raise DatasetError(f"{where}: preprocessing.{name}: expected an integer, got {values[name]!r:.100}")
        try:
            settings = cls(**{name: values[name] for name in ("rule", "area", "round_to") if name in values})
        except UsageError as error:
            raise DatasetError(f"{where}: preprocessing: {error}") from error
        expected = settings.to_json()
        for name in sorted({*expected, *values}):
            if values.get(name) != expected.get(name):
                raise DatasetError(
                    f"{where}: preprocessing.{name}: expected {expected.get(name)!r}, got {values.get(name)!r:.100}"
                )
        return settings

    def to_json(self) -> dict[str, Any]:
        """Return the settings as they are recorded in a dataset's plan."""
        values = {**asdict(self), "area": self.pixels, "filter": "bicubic", "transparency": "white"}
        return values if self.rule == "area" else {name: v for name, v in values.items() if name != "area"}

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to encode at, for a size in pixels. Raises RefusedInput `bad_size`."""
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
        """Return uint8 pixels (height, width, 3), resized by bicubic interpolation if need be."""
        import numpy as np
        from PIL.Image import Resampling

        if image.size != (width, height):
            image = image.resize((width, height), Resampling.BICUBIC)
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
