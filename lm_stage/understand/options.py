"""Options of an understanding job."""

from __future__ import annotations

from dataclasses import dataclass, field

from lm_stage.inference.options import InferenceOptions, SamplingOptions
from lm_stage.text.prompting import QUESTION_TEMPLATES
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class UnderstandOptions(InferenceOptions):
    """What to ask about which images, and where to write the answers.

    `dataset` holds the coded images and videos; None allows questions about text only. `questions` is a file of JSON
    lines; without it, `question` is asked about every row, by default for a description.
    """

    dataset: str | None
    answers: str
    question: str | None = None
    questions: str | None = None
    template: str = "chat"
    max_new_tokens: int = 1024
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(greedy=True), kw_only=True)

    def __post_init__(self) -> None:
        InferenceOptions.__post_init__(self)
        self.check_positive("max_new_tokens")
        if self.template not in QUESTION_TEMPLATES:
            raise UsageError(f"--template {self.template!r}: expected one of {', '.join(QUESTION_TEMPLATES)}")
        if self.dataset is None and self.questions is None:
            raise UsageError("expected a DATASET of images, or --questions FILE.jsonl with questions about text only")
        if self.question is not None and self.questions is not None:
            raise UsageError("--question and --questions: expected one of them")
        if self.engine.rank_count > 1:
            raise UsageError(
                f"--world-size {self.engine.rank_count}: all answers go into one file; give each rank its own questions"
                " and file"
            )
