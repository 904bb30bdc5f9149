"""A prompt, and the settings of prompts that do not have their own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lm_stage.generate.grid_size import grid_size
from shared.errors import RefusedInput, UsageError

SEED_BITS = 63
MAX_FRAMES = 65535  # frames of codes; a plan stores them as uint16


@dataclass(frozen=True, slots=True)
class PromptDefaults:
    """Settings of prompts that do not have their own.

    `area`, `height` and `width` are in pixels, `ratio` is width:height. `frames` counts frames of codes, each of four
    video frames; 0 asks for images. `is_size_given` is false if the size is only the model's default, which gives way
    to the size of a dataset's row.
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

    def __post_init__(self) -> None:
        if not 0 <= self.frames <= MAX_FRAMES:
            raise UsageError(f"--frames {self.frames}: expected 0 (images) to {MAX_FRAMES} frames of codes")
        if self.samples < 1:
            raise UsageError(f"--samples {self.samples}: expected at least 1")
        if self.seed.bit_length() > SEED_BITS:
            raise UsageError(f"--seed {self.seed}: expected a 64-bit integer")
        try:
            grid_size(self.ratio, self.area, self.height, self.width)
        except RefusedInput as refusal:
            raise UsageError(f"image size: {refusal.detail}") from refusal

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a plan records them; `frames` only for videos, as in plans of version 0.1."""
        values = asdict(self)
        if not self.frames:
            del values["frames"]
        return values


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image or video to generate, or a refused prompt: `refusal` is then (reason, detail).

    `height` and `width` are in codes; `images` are keys of rows in a dataset of codes. `frames` is 0 for an image, else
    the number of frames of codes in the whole video. `video` is the key of the clip to continue; if no size is given,
    `height` and `width` are 0 until the planner takes them from that clip.
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
