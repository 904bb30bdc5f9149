"""The settings that decide the generated tokens, recorded in the plan of the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lm_stage.generate.prompts import PromptDefaults
from lm_stage.inference.sampling import SamplingOptions
from shared.tokens.visual_tokens import GridFormat


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of a generated dataset; a job that resumes must have the same.

    `model` holds the fingerprints of the model directory. `prompts_sha256` is the SHA-256 of the prompt file, or of the
    plan of the dataset whose captions are the prompts; `images` is that of the plan of the dataset of images, or None.
    `video_format` is set only if there are videos to generate.
    """

    model: Mapping[str, Any]
    sampling: SamplingOptions
    guidance_scale: float
    suffix: str
    defaults: PromptDefaults
    prompts_sha256: str
    images: str | None
    video_format: GridFormat | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = {**asdict(self), "template": "text-to-image", "defaults": self.defaults.to_json()}
        model, video_format = values.pop("model"), values.pop("video_format")
        return {**model, **values, **({"video_template": video_format} if video_format else {})}
