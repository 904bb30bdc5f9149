"""A worker of the understanding job: keeps a batch of answers full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lm_stage.inference.coded_images import open_coded_images
from lm_stage.inference.text_generator import TextGenerator, TextRequest, TextSequence
from lm_stage.model.model_directory import ModelDirectory
from lm_stage.understand.answer_file import Answer
from lm_stage.understand.options import UnderstandOptions
from lm_stage.understand.questions import DIED, Question, QuestionRenderer
from shared.jobs.job import Task, TaskFeed, TaskResult, WorkerContext


class UnderstandWorker:
    """Answers questions; the unit of a question is its index.

    Each TaskResult contains an Answer, because one process writes the file.
    """

    def __init__(self, options: UnderstandOptions, questions: Sequence[Question], context: WorkerContext):
        from lm_stage.language_model import LanguageModel

        self.options, self.questions, self.context = options, questions, context
        self.directory = ModelDirectory.open(options.model, options.layout, prompting=options.prompting)
        images = open_coded_images(options.dataset, self.directory)
        self.renderer = QuestionRenderer(self.directory, images, options)
        self.requests: dict[int, TextRequest] = {}
        self.model = LanguageModel.for_job(self.directory, options)

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Answer the questions of one cache length after those of another."""
        feed = TaskFeed(tasks, self._cache_length)
        sampling = self.options.sampling.resolved(self.directory.prompting.text)
        while (length := feed.next_shape()) is not None and not self.context.stop.is_set():
            generator = self.model.text_generator(self.options.batch_size, length, sampling)
            yield from self._answer(generator, feed, length)

    def _cache_length(self, unit: int) -> int:
        """Render a question; the request is kept until the generator takes it."""
        self.requests[unit] = self.renderer.request(self.questions[unit])
        return self.renderer.cache_length(self.requests[unit])

    def _answer(self, generator: TextGenerator, feed: TaskFeed[int], length: int) -> Iterator[TaskResult]:
        """Generate until no question of this length is left, or the stop flag is set."""
        running: dict[str, Task] = {}
        while not self.context.stop.is_set():
            while not generator.is_full and (task := feed.take(length)) is not None:
                request = self.requests.pop(task.unit)
                if task.poison:
                    refused = Answer.refused(self.questions[task.unit], DIED)
                    yield TaskResult(task, quarantined=1, payload=refused)
                    continue
                running[request.key] = task
                generator.add(request)
            if not generator.running:
                return
            self.context.report_progress(next(iter(running.values())).unit, 0)  # a sign of life
            for sequence in generator.step():
                task = running.pop(sequence.request.key)
                self.context.report_progress(task.unit, 1)
                yield TaskResult(task, rows=1, payload=self._answered(self.questions[task.unit], sequence))

    def _answered(self, question: Question, sequence: TextSequence) -> Answer:
        return Answer(
            question.key,
            question.text,
            question.images,
            answer=self.directory.text_tokenizer.decode(sequence.text_ids()),
            finish_reason=sequence.finish_reason,
            tokens=len(sequence.token_ids),
        )
