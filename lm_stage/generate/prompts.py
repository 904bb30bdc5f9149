"""A prompt: its fields, the settings of prompts that do not have their own, and the size of an image in codes.

Bad fields refuse one prompt only, with a reason code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lm_stage.inference.options import MAX_SEED
from lm_stage.model.codec import NO_VIDEO_MESSAGE
from lm_stage.text.entry_files import parse_keys, parse_text
from lm_stage.text.prompting import PLAIN, Prompting
from shared.codec import EMU3, Codec
from shared.dataset.plan import MAX_SIZE
from shared.errors import RefusedInput, UsageError

MAX_SAMPLES = 10_000  # of one prompt


@dataclass(frozen=True, slots=True)
class PromptDefaults:
    """Settings of prompts that do not have their own.

    `area`, `height` and `width` are in pixels, `ratio` is width:height. `frames` counts frames of codes, for Emu3 each
    of four video frames; 0 asks for images. `is_size_given` is false if the size is only the model's default, which
    gives way to the size of a dataset's row, and to that of the only image in a prompt if the prompting says so.
    `codec` and `prompting` are the model's. With `is_answer`, prompts ask for answers, whose images have free sizes
    unless they are given.
    """

    area: int
    ratio: str = "1:1"
    height: int | None = None
    width: int | None = None
    negative_prompt: str = ""
    seed: int = 0
    samples: int = 1
    is_size_given: bool = False
    frames: int = 0
    codec: Codec = EMU3
    prompting: Prompting = PLAIN
    is_answer: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.frames <= MAX_SIZE:
            raise UsageError(f"--frames {self.frames}: expected 0 (images) to {MAX_SIZE} frames of codes")
        if self.frames and not self.codec.supports_video:
            raise UsageError(f"--frames {self.frames}: expected 0 (images): {NO_VIDEO_MESSAGE}")
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise UsageError(f"--samples {self.samples}: expected 1 to {MAX_SAMPLES}")
        try:
            self.default_grid_size(self.ratio, self.area, self.height, self.width)
        except RefusedInput as refusal:
            raise UsageError(f"image size: {refusal.detail}") from refusal

    def default_grid_size(self, ratio: str, area: int, height: int | None, width: int | None) -> tuple[int, int]:
        """Return (height, width) in codes: the published grid for ratio, area and codec, else that of `grid_size`."""
        published, is_free = dict(self.prompting.sizes), height is None and width is None
        is_published = (area, self.codec.spatial_factor) == (self.prompting.area, self.prompting.sizes_factor)
        if is_free and is_published and ratio in published:
            return published[ratio]
        return grid_size(self.codec, ratio, area, height, width)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a plan records them; `frames` only for videos, as in plans of version 0.1."""
        values = asdict(self)
        del values["codec"], values["prompting"]  # which the plan records itself
        for name in ("frames", "is_answer"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image or video to generate, or a refused prompt: `refusal` is then (reason, detail).

    `height` and `width` are in codes; `images` are keys of rows in a dataset of codes. `frames` is 0 for an image, else
    the number of frames of codes in the whole video. `video` is the key of the clip to continue. If no size is given,
    `height` and `width` are 0 until the planner takes them from that clip, or from the only image in the prompt; for an
    answer without such an image they stay 0, because the model decides.
    """

    key: str
    uri: str
    text: str
    negative_prompt: str = ""
    height: int = 0
    width: int = 0
    seed: int = 0
    images: tuple[str, ...] = ()
    refusal: tuple[str, str] | None = None
    frames: int = 0
    video: str | None = None
    fps: float | None = None


MAX_FPS = 1000
SIZE_FIELDS = frozenset({"ratio", "area", "height", "width"})
FIELDS = SIZE_FIELDS | {"key", "name", "prompt", "text", "negative_prompt", "seed", "samples", "images"}
FIELDS |= {"frames", "video", "fps"}


def parse_prompt(key: str, uri: str, fields: Mapping[str, Any], defaults: PromptDefaults) -> Prompt:
    """Build a prompt from its fields.

    Raises RefusedInput with one of the reasons `bad_entry`, `empty_prompt`, `bad_ratio`, `bad_size`, `bad_frames`.
    """
    if unknown := sorted(set(fields) - FIELDS):
        raise RefusedInput(
            "bad_entry", f"unknown fields {', '.join(map(repr, unknown))}; expected some of {', '.join(sorted(FIELDS))}"
        )
    text = _caption(fields)
    images = parse_keys("images", fields.get("images", []))
    height, width = _size(fields, defaults)
    seed = _seed(fields, defaults)
    negative_prompt = parse_text("negative_prompt", fields.get("negative_prompt", defaults.negative_prompt))
    frames = _frames(fields, defaults)
    video, fps = _continued_clip(fields, frames), _fps(fields, frames)
    if frames and defaults.is_answer:
        raise RefusedInput("bad_frames", "`frames`: expected none, because answers have no videos")
    return Prompt(key, uri, text, negative_prompt, height, width, seed, images, None, frames, video, fps)


def parse_samples(value: object) -> int:
    """Return the number of images per prompt. Raises RefusedInput (`bad_entry`) if it is out of range."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SAMPLES:
        raise RefusedInput("bad_entry", f"`samples`: expected an integer from 1 to {MAX_SAMPLES}, got {value!r:.100}")
    return value


def _caption(fields: Mapping[str, Any]) -> str:
    text = fields.get("prompt", fields.get("text"))
    if not isinstance(text, str) or not text.strip():
        raise RefusedInput("empty_prompt", f"expected `prompt` or a caption with some text, got {text!r:.100}")
    return parse_text("prompt", text)


def _size(fields: Mapping[str, Any], defaults: PromptDefaults) -> tuple[int, int]:
    """Return height and width in codes; (0, 0) means the size of the clip that a video continues, or of an image."""
    is_edit = defaults.prompting.repeats_images and len(fields.get("images", [])) == 1
    is_free = (is_edit or defaults.is_answer) and not defaults.is_size_given
    if (is_free or fields.get("video") is not None) and not SIZE_FIELDS & set(fields):
        return 0, 0
    area = _integer(fields, "area", defaults.area)
    height = _integer(fields, "height", defaults.height)
    width = _integer(fields, "width", defaults.width)
    if {"ratio", "area"} & set(fields) and not {"height", "width"} & set(fields):
        height = width = None
    ratio, area = fields.get("ratio", defaults.ratio), defaults.area if area is None else area
    return defaults.default_grid_size(ratio, area, height, width)


def _seed(fields: Mapping[str, Any], defaults: PromptDefaults) -> int:
    seed = _integer(fields, "seed", defaults.seed) or 0
    if not 0 <= seed <= MAX_SEED:
        raise RefusedInput("bad_entry", f"`seed`: expected an integer from 0 to {MAX_SEED}, got {seed}")
    return seed


def _frames(fields: Mapping[str, Any], defaults: PromptDefaults) -> int:
    frames = _integer(fields, "frames", defaults.frames) or 0
    if not 0 <= frames <= MAX_SIZE:
        raise RefusedInput("bad_frames", f"`frames`: expected 0 (an image) to {MAX_SIZE}, got {frames}")
    if frames and not defaults.codec.supports_video:
        raise RefusedInput("bad_frames", f"`frames`: expected 0 (an image), got {frames}: {NO_VIDEO_MESSAGE}")
    return frames


def _continued_clip(fields: Mapping[str, Any], frames: int) -> str | None:
    key = fields.get("video")
    if key is None:
        return None
    if not isinstance(key, str) or not parse_text("video", key):
        raise RefusedInput("bad_entry", f"`video`: expected a key, got {key!r:.100}")
    if not frames:
        raise RefusedInput("bad_frames", "`video`: expected `frames` too, more than that clip has")
    return key


def _fps(fields: Mapping[str, Any], frames: int) -> float | None:
    fps = fields.get("fps")
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < MAX_FPS:
        raise RefusedInput("bad_entry", f"`fps`: expected a number above 0 and below {MAX_FPS}, got {fps!r:.100}")
    if not frames:
        raise RefusedInput("bad_entry", "`fps`: expected `frames` too; an image has no frame rate")
    return float(fps)


def _integer(fields: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = fields.get(name, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise RefusedInput("bad_entry", f"`{name}`: expected an integer, got {value!r:.100}")
    return value


def grid_size(
    codec: Codec, ratio: str, area: int, height: int | None = None, width: int | None = None
) -> tuple[int, int]:
    """Return (height, width) in codes; `height` and `width` in pixels take precedence over `ratio` and `area`.

    `ratio` is width:height and `area` is in pixels. Raises RefusedInput (`bad_ratio`, `bad_size`) if they do not
    describe an image.
    """
    if (height is None) != (width is None):
        raise RefusedInput("bad_size", "height and width: expected both or neither")
    factor = codec.spatial_factor
    size = _from_ratio(ratio, area, factor) if height is None or width is None else _from_pixels(height, width, factor)
    if max(size) > MAX_SIZE // factor:
        raise RefusedInput("bad_size", f"{size[0]}×{size[1]} codes: expected at most {MAX_SIZE // factor} per side")
    return size


def _from_pixels(height: int, width: int, factor: int) -> tuple[int, int]:
    if min(height, width) < factor or height % factor or width % factor:
        raise RefusedInput("bad_size", f"{height}×{width} pixels: expected multiples of {factor}")
    return height // factor, width // factor


def _from_ratio(ratio: str, area: int, factor: int) -> tuple[int, int]:
    """Scale the ratio to the area and round to codes.

    Source: upstream's Emu3 processor, with Python's rounding of halves to even.
    """
    ratio_width, ratio_height = _parsed_ratio(ratio)
    if area < factor**2:
        raise RefusedInput("bad_size", f"area {area}: expected at least {factor**2} pixels")
    try:
        scale = math.sqrt(area / (ratio_width * ratio_height)) / factor
        height, width = round(ratio_height * scale), round(ratio_width * scale)
    except (ZeroDivisionError, OverflowError):
        raise RefusedInput(
            "bad_ratio", f"ratio {ratio!r:.100} and area {area}: out of the range of arithmetic"
        ) from None
    if min(height, width) < 1:
        raise RefusedInput("bad_ratio", f"ratio {ratio!r:.100} and area {area} give {height}×{width} codes")
    return height, width


def _parsed_ratio(ratio: str) -> tuple[float, float]:
    try:
        width, height = (float(number) for number in ratio.split(":"))
    except (ValueError, AttributeError):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r:.100}: expected width:height, such as 16:9") from None
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise RefusedInput("bad_ratio", f"ratio {ratio!r:.100}: expected two positive numbers")
    return width, height
