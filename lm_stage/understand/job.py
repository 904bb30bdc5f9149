"""The understanding job: answers questions about coded images and videos, without a vision model.

Data flow of one question: list of questions → token ids with the codes of its images → sequence of the text
generator → answer → line of the answer file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from lm_stage.inference.coded_images import open_coded_images
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.understand.answer_file import Answer, AnswerFile, AnswerSettings
from lm_stage.understand.options import UnderstandOptions
from lm_stage.understand.questions import Question, QuestionRenderer, list_questions
from lm_stage.understand.worker import UnderstandWorker
from shared.dataset.readers import KeyReader
from shared.errors import DatasetError, Interrupted, RefusedInput, UsageError
from shared.jobs.claims import NoClaims
from shared.jobs.file_locks import try_lock
from shared.jobs.job import Job, TaskResult
from shared.jobs.signals import StopFlag, stop_on_signals


@dataclass(frozen=True, slots=True)
class UnderstandResult:
    """Numbers of questions answered by this run, answered or refused before it, and refused by it."""

    answered: int
    resumed: int
    refused: int


def understand(options: UnderstandOptions) -> UnderstandResult:
    """Answer the questions that have no answer yet; calling it again resumes.

    Raises ConfigMismatchError, before the model loads, if the answers were created with different settings;
    Interrupted after SIGINT or SIGTERM, with every finished answer on disk.
    """
    model = ModelDirectory.open(options.model, options.layout)
    images = open_coded_images(options.dataset, model)
    questions = list_questions(options.question, options.questions, images)
    if not questions:
        raise UsageError(f"{options.questions or options.dataset}: contains no questions and no images")
    renderer = QuestionRenderer(model, images, options)
    path = Path(options.answers)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = _settings(options, model, images, questions)
    with stop_on_signals() as stop, _locked(path), closing(AnswerFile(path, settings)) as file:
        resumed = set(file.answers)
        missing = sum(question.key not in resumed for question in questions)
        if missing and file.is_finished:
            raise DatasetError(f"{path}: damaged: {missing} answers are missing; delete it to answer again")
        plan = plan_questions(questions, renderer, resumed)
        for refusal in plan.refusals:
            file.add(refusal)
        _answer(options, plan, file, len(questions), stop)
        file.finish([question.key for question in questions])
    errors = [answer.error for key, answer in file.answers.items() if key not in resumed]
    return UnderstandResult(errors.count(None), len(resumed), len(errors) - errors.count(None))


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


def _answer(options: UnderstandOptions, plan: QuestionPlan, file: AnswerFile, total: int, stop: StopFlag) -> None:
    def add_answer(result: TaskResult) -> None:
        assert isinstance(result.payload, Answer)
        file.add(result.payload)

    with tqdm(total=total, initial=total - len(plan.units), unit="answer", disable=None) as bar:
        job = Job(
            partial(UnderstandWorker, options.for_workers()),
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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = try_lock(path.with_name(path.name + ".lock"))
    if lock is None:
        raise UsageError(f"{path}: another job is writing these answers; use another file")
    try:
        yield
    finally:
        lock.release()


def _settings(
    options: UnderstandOptions, model: ModelDirectory, images: KeyReader | None, questions: Sequence[Question]
) -> AnswerSettings:
    content = Path(options.questions).read_bytes() if options.questions else None
    keys = (key for question in questions for key in question.images)
    has_videos = images is not None and any(images.is_video(key) for key in keys)
    return AnswerSettings(
        model=model.recorded(),
        images=images.dataset.plan().sha256 if images else None,
        question=options.question,
        questions_sha256=None if content is None else hashlib.sha256(content).hexdigest(),
        template=options.template,
        max_new_tokens=options.max_new_tokens,
        sampling=options.sampling,
        seed=options.seed,
        video_format=options.video_format if has_videos else None,
    )
