"""The settings that decide the answers, recorded in `ANSWERS.settings.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lm_stage.inference.sampling import SamplingOptions
from shared.tokens.visual_tokens import GridFormat


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Settings of an answer file; a job that resumes must have the same.

    `model` holds the fingerprints of the model directory. `images` is the SHA-256 of the dataset's plan and
    `questions_sha256` that of the file of questions, each None if there is none. `video_format` is set only if videos
    are asked about.
    """

    model: Mapping[str, Any]
    images: str | None
    question: str | None
    questions_sha256: str | None
    template: str
    max_new_tokens: int
    sampling: SamplingOptions
    seed: int
    video_format: GridFormat | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; its names are those of version 0.1."""
        values = {
            **self.model,
            "images": self.images,
            "question": self.question,
            "questions_sha256": self.questions_sha256,
            "template": self.template,
            "max_new_tokens": self.max_new_tokens,
            "sampling": asdict(self.sampling),
            "seed": self.seed,
        }
        return values if self.video_format is None else {**values, "video_template": asdict(self.video_format)}
