"""The understanding job: questions about coded images and videos to answers, without a vision model.

The way of one question: list → prompt with its codes → slot of the text generator → answer → line of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_stage.inference.sampling import SamplingOptions
from lm_stage.inference.text_generator import TextGenerator, TextRequest, TextSequence
from lm_stage.model.model_directory import EMBEDDED_MODEL, ModelDirectory
from lm_stage.text.parts import CodeGrid, interleave
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.templates import CONVERSATION_TEMPLATES, video_format_named
from lm_stage.understand.answer_file import AnswerFile
from lm_stage.understand.questions import Question, list_questions
from shared.dataset.dataset import Dataset
from shared.dataset.readers import KeyReader
from shared.errors import ConfigMismatchError, DatasetError, Interrupted, RefusedInput, UsageError
from shared.jobs.claims import NoClaims
from shared.jobs.engines import EngineOptions
from shared.jobs.file_locks import try_lock
from shared.jobs.job import Job, Task, TaskResult, WorkerContext
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.jobs.task_feed import TaskFeed
from shared.storage.digests import settings_diff
from shared.storage.paths import absolute

LENGTH_BUCKETS = tuple(256 * 2**power for power in range(12))  # tokens of question and answer: one compile each


@dataclass(frozen=True, slots=True)
class UnderstandOptions:
    """Settings of an understanding job. `batch_size` is the number of answers generated at the same time."""

    dataset: str | None
    answers: str
    model: str = str(EMBEDDED_MODEL)
    question: str | None = None
    questions: str | None = None
    template: str = "chat"
    video_template: str = "univla"
    max_new_tokens: int = 1024
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(greedy=True))
    seed: int = 0
    batch_size: int = 8
    layout: str | None = None
    device: str = "auto"
    dtype: str | None = None
    backend: str = "native"
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if self.template not in CONVERSATION_TEMPLATES:
            raise UsageError(f"--template {self.template!r}: expected one of {', '.join(CONVERSATION_TEMPLATES)}")
        video_format_named(self.video_template)
        if self.dataset is None and self.questions is None:
            raise UsageError("expected a DATASET of images, or --questions FILE.jsonl with questions about text only")
        if self.question is not None and self.questions is not None:
            raise UsageError("--question and --questions: expected one of them")
        if self.engine.rank_count > 1:
            raise UsageError(
                f"--world-size {self.engine.rank_count}: all answers go into one file; give each rank its own questions"
                " and file"
            )

    def for_workers(self) -> UnderstandOptions:
        """The same job, told to processes that may have been started elsewhere."""
        return replace(
            self,
            dataset=self.dataset and absolute(self.dataset),
            model=absolute(self.model),
            questions=self.questions and absolute(self.questions),
            layout=self.layout and absolute(self.layout),
        )


@dataclass(frozen=True, slots=True)
class UnderstandResult:
    """Answers of this run, lines that were there already, and questions of this run that could not be asked."""

    answered: int
    kept: int
    refused: int


def understand(options: UnderstandOptions) -> UnderstandResult:
    """Answers what is not answered yet; the same call resumes.

    Raises ConfigMismatchError, before the model loads, if the answers were begun with other settings;
    Interrupted after SIGINT or SIGTERM, with every finished answer kept.
    """
    asker = Asker(options)
    if not asker.questions:
        raise UsageError(f"{options.questions or options.dataset}: holds no question and no image")
    out = Path(options.answers)
    out.parent.mkdir(parents=True, exist_ok=True)
    with stop_on_signals() as stop:
        claim = try_lock(out.with_name(out.name + ".lock"))
        if claim is None:
            raise UsageError(f"{out}: another job writes these answers; give it another file")
        try:
            with closing(AnswerFile(out, _recorded(options, asker))) as file:
                kept = dict(file.answers)
                _answer_missing(options, asker, file, stop)
                file.finish([question.key for question in asker.questions])
        finally:
            claim.release()
    errors = [answer["error"] for key, answer in file.answers.items() if key not in kept]
    return UnderstandResult(errors.count(None), len(kept), len(errors) - errors.count(None))


def _answer_missing(options: UnderstandOptions, asker: Asker, file: AnswerFile, stop: StopFlag) -> None:
    """Questions of like length are answered together, the shortest first. What cannot be asked gets its line."""
    missing = [number for number, question in enumerate(asker.questions) if question.key not in file.answers]
    if missing and file.is_finished:
        raise DatasetError(f"{file.path}: damaged: {len(missing)} answers are missing; remove it to answer again")
    buckets: dict[int, int] = {}
    for number in missing:
        try:
            buckets[number] = asker.bucket(asker.request(number))
        except RefusedInput as refusal:
            file.add(_line(asker.questions[number], error=str(refusal)))
    answered = len(asker.questions) - len(buckets)
    with tqdm(total=len(asker.questions), initial=answered, unit="answer", disable=None) as bar:
        job = Job(
            partial(UnderstandWorker, options.for_workers()),
            sorted(buckets, key=lambda number: (buckets[number], number)),
            catalog=QuestionCatalog(buckets),
            claims=NoClaims(),
            stop=stop,
            on_result=lambda result: file.add(result.payload),  # type: ignore[arg-type]
            on_progress=bar.update,
            max_in_flight=2 * options.batch_size,
        )
        try:
            options.engine.run(job)
        except Interrupted:
            stop.raise_if_set(f"{len(file.answers)} of {len(asker.questions)} answers kept")
            raise


def _check_codec(options: UnderstandOptions, source: ModelDirectory, index: KeyReader) -> None:
    found, expected = index.dataset.plan().settings.codec.to_json(), source.codec().to_json()
    names = ["codebook_size", *(["fingerprint"] if expected["fingerprint"] and found["fingerprint"] else [])]
    if diff := settings_diff({name: expected[name] for name in names}, {name: found[name] for name in names}):
        raise ConfigMismatchError(
            f"{options.dataset}: its codes are not those {options.model} was trained on:\n  " + "\n  ".join(diff)
        )


def _recorded(options: UnderstandOptions, asker: Asker) -> dict[str, Any]:
    """The settings that decide the answers; the form of videos only if one is asked about."""
    content = Path(options.questions).read_bytes() if options.questions else b""
    source, index = asker.source, asker.index
    shown = (key for question in asker.questions for key in question.images)
    has_videos = index is not None and any(index.is_video(key) for key in shown)
    recorded = {
        **source.recorded(),
        "images": index.dataset.plan().sha256 if index else None,
        "question": options.question,
        "questions_sha256": hashlib.sha256(content).hexdigest() if options.questions else None,
        "template": options.template,
        "max_new_tokens": options.max_new_tokens,
        "sampling": asdict(options.sampling),
        "seed": options.seed,
    }
    if has_videos:
        recorded["video_template"] = asdict(video_format_named(options.video_template))
    return recorded


class Asker:
    """The questions of a job, and what a model is given of each."""

    def __init__(self, options: UnderstandOptions):
        self.options = options
        self.source = ModelDirectory.open(options.model, options.layout)
        self.index = KeyReader(Dataset.open(options.dataset)) if options.dataset else None
        if self.index is not None:
            _check_codec(options, self.source, self.index)
        self.questions = list(list_questions(options.question, options.questions, self.index))
        video = video_format_named(options.video_template)
        self.templates = SequenceRenderer(self.source.text_tokenizer, self.source.layout, video)

    def request(self, number: int) -> TextRequest:
        """Raises RefusedInput if it cannot be asked."""
        question = self.questions[number]
        if question.refusal:
            reason, _, detail = question.refusal.partition(": ")
            raise RefusedInput(reason, detail)
        ids = self.templates.question_prompt(
            interleave(question.text, [self._visual(key) for key in question.images]),
            CONVERSATION_TEMPLATES[self.options.template],
        ).tolist()
        left = self.source.config.max_position_embeddings - len(ids)
        if left < 1:
            raise RefusedInput("too_long", f"{len(ids)} tokens, the model has {left + len(ids)} positions")
        return TextRequest(question.key, ids, min(left, self.options.max_new_tokens), self.options.seed)

    def _visual(self, key: str) -> CodeGrid:
        """The image or clip of a key. Raises RefusedInput if there is none."""
        if self.index is None:
            raise RefusedInput("missing_image", "the question holds images: give their DATASET")
        if self.index.is_video(key):
            return CodeGrid.video(self.index.clip(key).codes_THW)
        return CodeGrid.image(self.index.image(key))

    def bucket(self, request: TextRequest) -> int:
        """Cache length for a question and its answer."""
        bucket = next(bucket for bucket in LENGTH_BUCKETS if bucket >= request.length)
        return min(bucket, self.source.config.max_position_embeddings)


@dataclass(frozen=True, slots=True)
class QuestionCatalog:
    """One question per unit; questions of the same cache length share compiled graphs."""

    cache_lengths: Mapping[int, int]

    def src_indices(self, unit: int) -> tuple[int, ...]:
        return (unit,)

    def shape(self, unit: int) -> int:
        return self.cache_lengths[unit]


class UnderstandWorker:
    """Answers questions; what came of one is the `payload` of its TaskResult, for the file that one process writes."""

    def __init__(self, options: UnderstandOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.asker = Asker(options)
        self.model = self.asker.source.load(options.device, options.dtype, options.backend)

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """All slots are kept busy over questions of like length."""
        feed = TaskFeed(tasks, lambda number: self.asker.bucket(self.asker.request(number)))
        while (bucket := feed.next_shape()) is not None and not self.context.stop.is_set():
            generator = self.model.text_generator(self.options.batch_size, bucket, self.options.sampling)
            yield from self._answer(generator, feed, bucket)

    def _answer(self, generator: TextGenerator, feed: TaskFeed[int], bucket: int) -> Iterator[TaskResult]:
        """Until there is no task of this length and no answer under way, or the stop flag is set."""
        running: dict[str, Task] = {}
        while not self.context.stop.is_set():
            while not generator.is_full and (task := feed.take(bucket)) is not None:
                question = self.asker.questions[task.unit]
                if task.poison:
                    died = "worker_died: the worker died each time it came to this question"
                    yield TaskResult(task, quarantined=1, payload=_line(question, error=died))
                    continue
                running[question.key] = task
                generator.add(self.asker.request(task.unit))
            if not generator.running:
                return
            for slot in generator.step():
                self.context.report_progress(running[slot.request.key].unit, 1)
                task = running.pop(slot.request.key)
                yield TaskResult(task, rows=1, payload=self._answered(self.asker.questions[task.unit], slot))

    def _answered(self, question: Question, slot: TextSequence) -> dict[str, Any]:
        text = self.asker.source.text_tokenizer.decode(slot.text_ids())
        return _line(question, text, slot.finish_reason, len(slot.token_ids))


def _line(
    question: Question,
    answer: str | None = None,
    finish_reason: str | None = None,
    tokens: int = 0,
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "key": question.key,
        "question": question.text,
        "images": list(question.images),
        "answer": answer,
        "finish_reason": finish_reason,
        "tokens": tokens,
        "error": error,
    }
