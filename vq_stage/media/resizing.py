"""Resizing rules: at which size an image is encoded.

`processor` is the rule of Emu3's published image processor (between 512² and 1024² pixels), `area` that of its data
preparation (scale to an area), `emu3.5` that of Emu3.5 (scale to an area, with other rounding), `none` keeps the size
of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.codec import Codec
from shared.errors import DatasetError, RefusedInput, UsageError

if TYPE_CHECKING:  # this module holds defaults of options, so it loads no library
    import numpy as np
    from PIL import Image

MIN_PIXELS, MAX_PIXELS = 512 * 512, 1024 * 1024
MAX_SIDE = 65535  # in pixels; sizes are stored as uint16
Size = tuple[int, int]  # height and width


def _processor_size(height: int, width: int, area: int, multiple: int) -> Size:
    rounded = round(height / multiple) * multiple, round(width / multiple) * multiple
    pixels = rounded[0] * rounded[1]
    if pixels > MAX_PIXELS:
        shrink = math.sqrt(height * width / MAX_PIXELS)
        return math.floor(height / shrink / multiple) * multiple, math.floor(width / shrink / multiple) * multiple
    if pixels < MIN_PIXELS:
        grow = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * grow / multiple) * multiple, math.ceil(width * grow / multiple) * multiple
    return rounded


def _area_size(height: int, width: int, area: int, multiple: int) -> Size:
    scale = math.sqrt(area / (height * width))
    return round(height * scale / multiple) * multiple, round(width * scale / multiple) * multiple


def _smart_size(height: int, width: int, area: int, multiple: int) -> Size:
    """Source: Emu3.5, `smart_resize`, which truncates the height first and the width for that height."""
    ratio = width / height
    new_height = int((area / ratio) ** 0.5)
    new_width = int(new_height * ratio)
    return (new_height + multiple // 2) // multiple * multiple, (new_width + multiple // 2) // multiple * multiple


def _same_size(height: int, width: int, area: int, multiple: int) -> Size:
    if height % multiple or width % multiple:
        raise RefusedInput("bad_size", f"{height}×{width}: expected multiples of {multiple} with --resize none")
    return height, width


@dataclass(frozen=True, slots=True)
class Rule:
    """A resizing rule.

    `size` takes the height and the width of an image, the target area, and the multiple that both sides become.
    `area` is that of the published preparation, for text-to-image training; None: the rule has no target area.
    """

    size: Callable[[int, int, int, int], Size]
    area: int | None = None


RULES = {
    "processor": Rule(_processor_size),
    "area": Rule(_area_size, area=720 * 720),
    "emu3.5": Rule(_smart_size, area=1024 * 1024),
    "none": Rule(_same_size),
}
AREA_RULES = tuple(name for name, rule in RULES.items() if rule.area)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How images are resized.

    `area` is the number of pixels that the rules with a target area scale to. Both sides become multiples of
    `round_to` pixels, which is a multiple of the codec's spatial factor, by default that factor. Larger values give
    fewer sizes, and so fewer graphs to compile, at the price of a slightly changed aspect ratio. Raises UsageError,
    naming the command-line option, for values that cannot work.
    """

    rule: str = "processor"
    area: int | None = None
    round_to: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, str) or self.rule not in RULES:
            raise UsageError(f"--resize {self.rule!r}: expected one of {', '.join(RULES)}")
        if self.round_to is not None and self.round_to < 1:
            raise UsageError(f"--round-to {self.round_to}: expected at least 1 pixel")
        if self.area is not None and self.rule not in AREA_RULES:
            raise UsageError(f"--area needs --resize {' or '.join(AREA_RULES)}; the other rules have no target area")

    @property
    def pixels(self) -> int:
        """The number of pixels that the rule scales to, 0 if it has no target area."""
        return (RULES[self.rule].area or 0) if self.area is None else self.area

    def step(self, codec: Codec) -> int:
        """Return the number of pixels that both sides become multiples of.

        Raises UsageError, naming the command-line option, for settings that do not suit the codec.
        """
        factor = codec.spatial_factor
        step = factor if self.round_to is None else self.round_to
        if step % factor:
            raise UsageError(
                f"--round-to {step}: expected a multiple of {factor}: a code of this tokenizer covers {factor} ×"
                f" {factor} pixels"
            )
        if self.rule in AREA_RULES and self.pixels < step**2:
            raise UsageError(f"--area {self.pixels}: expected at least {step**2} pixels")
        if self.rule == "none" and step != factor:
            raise UsageError("--round-to needs another rule than --resize none, which does not change sizes")
        return step

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
        expected = settings._json()
        for name in sorted({*expected, *values}):
            if values.get(name) != expected.get(name):
                raise DatasetError(
                    f"{where}: preprocessing.{name}: expected {expected.get(name)!r}, got {values.get(name)!r:.100}"
                )
        return settings

    def to_json(self, codec: Codec) -> dict[str, Any]:
        """Return the settings as the plan of a dataset of this codec records them. Raises UsageError as `step` does."""
        return replace(self, round_to=self.step(codec))._json()

    def _json(self) -> dict[str, Any]:
        values = {**asdict(self), "area": self.pixels, "filter": "bicubic", "transparency": "white"}
        return values if self.rule in AREA_RULES else {name: v for name, v in values.items() if name != "area"}

    def target_size(self, height: int, width: int, codec: Codec) -> tuple[int, int]:
        """Return the (height, width) to encode at, for a size in pixels. Raises RefusedInput `bad_size`."""
        step = self.step(codec)
        size = RULES[self.rule].size(height, width, self.pixels, step)
        if min(size) < step or max(size) > MAX_SIDE:
            raise RefusedInput("bad_size", f"{height}×{width} would become {size[0]}×{size[1]}")
        return size

    def resize(self, image: Image.Image, height: int, width: int) -> np.ndarray:
        """Return uint8 pixels (height, width, 3), resized by bicubic interpolation if need be."""
        import numpy as np
        from PIL.Image import Resampling

        if image.size != (width, height):
            image = image.resize((width, height), Resampling.BICUBIC)
        return np.asarray(image)
