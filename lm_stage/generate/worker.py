"""A worker of the generation job: keeps a batch full with the prompts of its units and commits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_stage.generate.interleaved import InterleavedProduct
from lm_stage.generate.journal import Journal, UnitProgress, unit_refusals
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import planned_prompt
from lm_stage.generate.product import Product
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.generate.prompts import Prompt
from lm_stage.generate.visual import VisualProduct
from lm_stage.inference.coded_images import open_coded_images
from lm_stage.model.model_directory import ModelDirectory
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Size
from shared.device import setup_device
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskFeed, TaskResult, WorkerContext
from shared.jobs.units import check_numerics

if TYPE_CHECKING:
    from lm_stage.inference.continuous_batch import ContinuousBatch
    from lm_stage.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class RunningPrompt:
    """A prompt that is being generated, as it is planned and as it was given."""

    progress: UnitProgress
    item: PlannedInput
    prompt: Prompt

    @property
    def journaled(self) -> Sequence[int]:
        """The codes or tokens in the journal."""
        return self.progress.journal.codes.get(self.item.src_index, ())


class GenerateWorker:
    """Generates the images and videos, or the answers, of one dataset."""

    def __init__(self, options: GenerateOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.directory = ModelDirectory.open(options.model, options.layout, options.codec, options.prompting)
        self.settings = options.prompt_settings(self.directory.prompting)
        images = open_coded_images(options.images, self.directory)
        self.renderer = PromptRenderer.for_job(options, self.directory, images)
        self.dataset = Dataset.open(options.dataset)
        self.plan = self.dataset.plan()
        self.sizes: list[Size] = [(size.frames, size.height, size.width) for size in self.plan.sizes()]
        self.product = self._product()
        self.numerics: dict[str, Any] = {}
        self.open_units: dict[int, UnitProgress] = {}
        self.running: dict[str, RunningPrompt] = {}
        if any(self.sizes[unit][1] for unit in self.dataset.missing_units(self.plan)):
            self._set_up_device()  # which refused prompts do not need

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Generate the units of one size after those of another."""
        feed = TaskFeed(tasks, self.sizes.__getitem__)
        with job_lock(self.dataset.root):
            while (size := feed.next_shape()) is not None and not self.context.stop.is_set():
                _, height, _ = size
                if height:
                    yield from self._generate(self.product.generator(self.model, size), feed, size)
                    continue
                while task := feed.take(size):
                    yield self._commit_refused(task)

    def _set_up_device(self) -> None:
        options = self.options
        device = setup_device(options.device, options.dtype, "bfloat16", options.kernels)
        # "slots" is the batch size: commit records and journals use that name.
        self.numerics = {**device.numerics(), "backend": options.backend, "slots": options.batch_size}
        if options.window > 1:  # which rounds differently, as another batch size does
            self.numerics["window"] = options.window
        if not options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)

    @cached_property
    def model(self) -> LanguageModel:
        from lm_stage.language_model import LanguageModel

        return LanguageModel.for_job(self.directory, self.options)

    def _product(self) -> Product[Any, Any, Any]:
        positions = self.directory.config.max_position_embeddings
        if self.renderer.answer is None:
            return VisualProduct(self.options, self.settings, self.renderer, self.plan)
        return InterleavedProduct(self.options, self.settings, self.renderer, self.plan, positions)

    def _generate(self, generator: ContinuousBatch[Any, Any], feed: TaskFeed[Size], size: Size) -> Iterator[TaskResult]:
        """Generate until no prompt of this size is left, or the stop flag is set; then journal what is incomplete."""
        requests: Iterator[Any] = iter(())
        try:
            while not self.context.stop.is_set():
                while not generator.is_full:
                    if (request := next(requests, None)) is not None:
                        sequence = generator.add(request)
                        self._report({request.key: self.product.progress(sequence)})
                    elif (task := feed.take(size)) is not None:
                        requests = self._requests(self._open(task))
                    else:
                        break
                yield from self._commit_complete()
                if not generator.running:
                    return
                self._step(generator)
                yield from self._commit_complete()
        finally:
            self._journal(generator.running)
            for progress in self.open_units.values():
                progress.journal.close()

    def _step(self, generator: ContinuousBatch[Any, Any]) -> None:
        """Decode tokens of every running sequence, then journal finished sequences and those that are due."""
        running, product = generator.running, self.product
        added = Counter({sequence.request.key: -product.progress(sequence) for sequence in running})
        finished = generator.step()
        self._journal([*finished, *filter(self._is_due, generator.running)])
        for sequence in running:
            added[sequence.request.key] += product.progress(sequence)
        self._report(added)
        for sequence in finished:
            self._record(sequence.request.key, product.result(sequence))

    def _is_due(self, sequence: Any) -> bool:
        running = self.running[sequence.request.key]
        return self.product.is_due(sequence, len(running.journaled))

    def _report(self, tokens: Mapping[str, int]) -> None:
        """Report the progress of running sequences since the last report, summed by unit."""
        by_unit: Counter[int] = Counter()
        for key, count in tokens.items():
            by_unit[self.running[key].progress.unit.unit] += count
        for unit, count in by_unit.items():
            self.context.report_progress(unit, count)

    def _journal(self, sequences: Iterable[Any]) -> None:
        """Append what is new of running sequences to the journals of their units, and sync these."""
        journals = set()
        for sequence in sequences:
            running = self.running[sequence.request.key]
            journal = running.progress.journal
            journal.add(running.item.src_index, self.product.to_journal(sequence))
            journals.add(journal)
        for journal in journals:
            journal.sync()

    def _open(self, task: Task) -> UnitProgress:
        identity = {"plan_sha256": self.plan.sha256_of(task.unit), "numerics": self.numerics}
        journal = Journal(self.dataset.journal_path(task.unit), identity, self.product.journal_dtype)
        self.open_units[task.unit] = UnitProgress(task, self.plan.unit(task.unit), journal)
        return self.open_units[task.unit]

    def _requests(self, progress: UnitProgress) -> Iterator[Any]:
        """Yield a request for every prompt of a unit; one that the journal completes becomes a record at once."""
        for item in progress.inputs:
            prompt = planned_prompt(progress.unit, item, self.plan.settings.codec)
            self.running[item.key] = running = RunningPrompt(progress, item, prompt)
            request = self.product.request(prompt, running.journaled)
            if (result := self.product.finished(request)) is not None:
                self._record(item.key, result)
            else:
                yield request

    def _record(self, key: str, result: Any) -> None:
        """Turn what was generated for a prompt into a record of its unit."""
        running = self.running.pop(key)
        record = self.product.record(running.item, running.prompt, result)
        running.progress.records[running.item.src_index] = record

    def _commit_complete(self) -> Iterator[TaskResult]:
        for progress in [progress for progress in self.open_units.values() if progress.is_complete]:
            yield self._commit(progress)

    def _commit(self, progress: UnitProgress) -> TaskResult:
        """Commit a unit; a task for a subset of its prompts leaves its codes in the journal instead."""
        unit = progress.unit.unit
        del self.open_units[unit]
        if progress.task.subset:
            progress.journal.close()
        else:
            records = [progress.records[index] for index in sorted(progress.records)]
            result = UnitResult(unit, records, refusals=progress.refusals, numerics=self.numerics)
            self.dataset.commit(result, self.plan)
            progress.journal.remove()
        return progress.result()

    def _commit_refused(self, task: Task) -> TaskResult:
        """Commit a unit of refused prompts, which has no rows; a task for a subset of them leaves nothing."""
        refusals = unit_refusals(self.plan.unit(task.unit), task.poison)
        if not task.subset:
            self.dataset.commit(UnitResult(task.unit, refusals=refusals), self.plan)
        return TaskResult(task, quarantined=len(refusals))
