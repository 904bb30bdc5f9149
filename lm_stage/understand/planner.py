"""Decides which questions are asked and in which order; every question is a unit of work."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from lm_stage.understand.answer_file import Answer
from lm_stage.understand.questions import Question
from lm_stage.understand.renderer import QuestionRenderer
from shared.errors import RefusedInput


@dataclass(frozen=True, slots=True)
class QuestionPlan:
    """The unanswered questions, by their index in the list: the cache length of each, and those that are refused."""

    cache_lengths: Mapping[int, int]
    refusals: Sequence[Answer]

    @property
    def units(self) -> list[int]:
        """The questions to ask, the shortest first, so that questions of similar length share a batch."""
        return sorted(self.cache_lengths, key=lambda unit: (self.cache_lengths[unit], unit))

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return (unit,)

    def shape(self, unit: int) -> int:
        return self.cache_lengths[unit]


def plan_questions(questions: Sequence[Question], renderer: QuestionRenderer, answered: Container[str]) -> QuestionPlan:
    """Render every question whose key is not `answered` yet."""
    cache_lengths, refusals = {}, []
    for unit, question in enumerate(questions):
        if question.key in answered:
            continue
        try:
            cache_lengths[unit] = renderer.cache_length(renderer.request(question))
        except RefusedInput as refusal:
            refusals.append(Answer.refused(question, str(refusal)))
    return QuestionPlan(cache_lengths, refusals)
