"""The understanding job: answers questions about coded images and videos, without a vision model.

Data flow of one question: list of questions → token ids with the codes of its images → sequence of the text
generator → answer → line of the answer file.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.inference.coded_images import open_coded_images
from lm_stage.inference.recorded_sampling import check_noise, sampling_to_json
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.understand.answer_file import Answer, AnswerFile, AnswerSettings, recorded_settings
from lm_stage.understand.options import UnderstandOptions
from lm_stage.understand.questions import DIED, KEY_FIELDS, Question, QuestionRenderer, list_questions
from lm_stage.understand.worker import UnderstandWorker
from shared.dataset.readers import KeyReader
from shared.errors import ConfigMismatchError, Interrupted, RefusedInput, UsageError
from shared.jobs.claims import NoClaims
from shared.jobs.file_locks import FILE_LOCK_SUFFIX, only_process
from shared.jobs.job import Job, TaskResult
from shared.jobs.signals import StopFlag, stop_on_signals

_NAMED_QUESTIONS = 3  # in a message


@dataclass(frozen=True, slots=True)
class UnderstandResult:
    """Numbers of questions: answered by this run, answered before it, and refused, by reason and with the first."""

    answered: int
    resumed: int
    refused: Mapping[str, int]
    first_refusals: Mapping[str, str]


def understand(options: UnderstandOptions) -> UnderstandResult:
    """Answer the questions that have no answer yet; calling it again resumes.

    Raises ConfigMismatchError, before the model loads, if the answers were created with different settings;
    Interrupted after SIGINT or SIGTERM, with every finished answer on disk.
    """
    model = ModelDirectory.open(options.model, options.layout, prompting=options.prompting)
    images = open_coded_images(options.dataset, model)
    report = partial(tqdm.write, file=sys.stderr)
    path = _output_path(options.answers)
    recorded = recorded_settings(path)
    is_of_0_1 = "questions_sha256" in recorded  # which did not know the other names of `key`
    key_fields = KEY_FIELDS[:1] if is_of_0_1 else KEY_FIELDS
    questions = list_questions(options.question, options.questions, images, report, key_fields)
    if not questions:
        raise UsageError(f"{options.questions or options.dataset}: contains no questions and no images")
    renderer = QuestionRenderer(model, images, options)
    _make_folder(path.parent)
    settings = _settings(options, model, images, questions, recorded)
    lock = path.with_name(path.name + FILE_LOCK_SUFFIX)
    held = f"{path}: another job is writing these answers; use another file"
    with stop_on_signals() as stop, only_process(lock, held), closing(AnswerFile(path, settings)) as file:
        plan = plan_questions(questions, renderer, file.answers)
        if plan.units:
            check_noise(settings.sampling, path)
        for refusal in plan.refusals:
            file.add(refusal)
        _answer(options, plan, file, questions, stop)
        file.finish([question.key for question in questions])
    errors = [error for question in questions if (error := file.answers[question.key].error)]
    reasons = Counter(error.partition(":")[0] for error in errors)
    first = {error.partition(":")[0]: error.partition(": ")[2] for error in reversed(errors)}
    answered = len(plan.cache_lengths) - sum(file.answers[questions[u].key].error is not None for u in plan.units)
    return UnderstandResult(answered, len(questions) - len(errors) - answered, reasons, first)


def _output_path(answers: str) -> Path:
    """Return the path of the answers. Raises UsageError if it cannot be a local file."""
    path = Path(answers)
    if "://" in answers or path.is_dir():
        raise UsageError(f"{answers}: expected the name of a local file for the answers")
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder}: expected a folder: {error}") from error


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


def plan_questions(
    questions: Sequence[Question], renderer: QuestionRenderer, answers: Mapping[str, Answer]
) -> QuestionPlan:
    """Render every question that has no answer yet, or was refused and has been corrected.

    Raises ConfigMismatchError if an answered question is now another one with the same key.
    """
    _check_unchanged(questions, answers)
    cache_lengths, refusals = {}, []
    for unit, question in enumerate(questions):
        known = answers.get(question.key)
        if known is not None and known.error in (None, DIED) and _is_same(question, known):
            continue
        try:
            cache_lengths[unit] = renderer.cache_length(renderer.request(question))
        except RefusedInput as refusal:
            if known is None or known.error != str(refusal):
                refusals.append(Answer.refused(question, str(refusal)))
    return QuestionPlan(cache_lengths, refusals)


def _check_unchanged(questions: Sequence[Question], answers: Mapping[str, Answer]) -> None:
    pairs = ((question, answers[question.key]) for question in questions if question.key in answers)
    changed = [(question, known) for question, known in pairs if known.error is None and not _is_same(question, known)]
    if changed:
        lines = (
            f"question {question.key!r}: recorded {known.question!r:.60}, given {question.text!r:.60}"
            for question, known in changed[:_NAMED_QUESTIONS]
        )
        raise ConfigMismatchError(
            "there are answers to different questions of the same keys:\n  "
            + "\n  ".join(lines)
            + "\ngive a changed question a new key, or use another file"
        )


def _is_same(question: Question, known: Answer) -> bool:
    return (known.question, known.images) == (question.text, question.images)


def _answer(
    options: UnderstandOptions, plan: QuestionPlan, file: AnswerFile, questions: Sequence[Question], stop: StopFlag
) -> None:
    total = len(questions)

    def add_answer(result: TaskResult) -> None:
        assert isinstance(result.payload, Answer)
        file.add(result.payload)

    with tqdm(total=total, initial=total - len(plan.units), unit="answer", disable=None) as bar:
        job = Job(
            partial(UnderstandWorker, options.for_workers(), questions),
            plan.units,
            catalog=plan,
            claims=NoClaims(),
            stop=stop,
            on_result=add_answer,
            on_progress=bar.update,
            max_in_flight=2 * options.batch_size,
        )
        try:
            options.engine.run(job)
        except Interrupted:
            stop.raise_if_set(f"{len(file.answers)} of {total} answers kept")
            raise


def _settings(
    options: UnderstandOptions,
    model: ModelDirectory,
    images: KeyReader | None,
    questions: Sequence[Question],
    recorded: Mapping[str, Any],
) -> AnswerSettings:
    keys = (key for question in questions for key in question.images)
    has_videos = images is not None and any(images.is_video(key) for key in keys)
    return AnswerSettings(
        model=model.recorded(),
        images=images.dataset.plan().sha256 if images is not None else None,
        question=options.question,
        template=model.prompting.question_template(options.template).name,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling_to_json(options.sampling.resolved(model.prompting.text), recorded.get("sampling")),
        seed=options.seed,
        video_format=options.recorded_video_format(has_videos, recorded),
        questions_sha256=recorded.get("questions_sha256"),
    )
