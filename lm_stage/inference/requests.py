"""What callers of `LanguageModel` ask for: images or videos for prompts in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lm_stage.inference.options import SamplingOptions, check_window
from shared.errors import UsageError
from shared.tokens.grid_formats import UNIVLA, GridFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """Images of `height` × `width` codes, one for each prompt; for Emu3 one code covers 8 × 8 pixels.

    A `guidance_scale` of 1 turns guidance off; None is what upstream published. The noise of prompt i is keyed by
    (`seed`, i), so neither the batch size nor the other prompts change an image. With a `window` above 1, a forward
    covers `window` tokens of each image (see `emu3 generate --window`). Raises UsageError for values out of range.
    """

    prompts: Sequence[str]
    height: int
    width: int
    negative_prompt: str = ""
    guidance_scale: float | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    seed: int = 0
    batch_size: int = 16
    window: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str):
            raise UsageError("prompts: expected a list of texts, got one text")
        for name in ("height", "width", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: expected at least 1")
        check_window(self.window)
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < float("inf"):
            raise UsageError(f"guidance_scale {self.guidance_scale}: expected a number from 0; 1 is no guidance")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRequest(ImageRequest):
    """Videos of `frames` × `height` × `width` codes, one for each prompt; one frame of codes covers 4 frames for Emu3.

    `prefix_codes_BTHW` are the codes of the clips, one for each prompt, that the videos continue.
    """

    frames: int
    grid_format: GridFormat = UNIVLA
    prefix_codes_BTHW: np.ndarray | None = None

    def __post_init__(self) -> None:
        ImageRequest.__post_init__(self)  # `super()` fails in a dataclass with slots
        if self.frames < 1:
            raise UsageError(f"frames {self.frames}: expected at least 1")
