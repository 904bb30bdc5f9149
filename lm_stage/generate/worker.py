"""A worker of the generation job: keeps a batch full with the prompts of its units and commits them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_stage.generate.journal import Journal, UnitProgress, unit_refusals
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import longest_prompt, max_body_length, planned_prompt
from lm_stage.generate.prompt_renderer import PromptRenderer
from lm_stage.inference.coded_images import open_coded_images
from lm_stage.inference.recorded_sampling import sampling_to_json
from lm_stage.model.model_directory import ModelDirectory
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Size
from shared.dataset.rows import SequenceRecord
from shared.device import setup_device
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskFeed, TaskResult, WorkerContext
from shared.jobs.units import check_numerics
from shared.storage.digests import canonical_json

if TYPE_CHECKING:
    from lm_stage.inference.visual_generator import VisualGenerator
    from lm_stage.inference.visual_sequence import VisualRequest, VisualSequence
    from lm_stage.language_model import LanguageModel


class GenerateWorker:
    """Generates the images and videos of one dataset."""

    def __init__(self, options: GenerateOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.directory = ModelDirectory.open(options.model, options.layout, options.codec, options.prompting)
        self.settings = options.prompt_settings(self.directory.prompting)
        images = open_coded_images(options.images, self.directory)
        self.renderer = PromptRenderer.for_job(options, self.directory, images)
        self.dataset = Dataset.open(options.dataset)
        self.plan = self.dataset.plan()
        self.codec = self.plan.settings.codec
        self.sizes: list[Size] = [(size.frames, size.height, size.width) for size in self.plan.sizes()]
        self.numerics: dict[str, Any] = {}
        self.open_units: dict[int, UnitProgress] = {}
        self.running: dict[str, tuple[UnitProgress, PlannedInput]] = {}
        if any(self.sizes[unit][1] for unit in self.dataset.missing_units(self.plan)):
            self._set_up_device()  # which refused prompts do not need

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """Generate the units of one size after those of another."""
        feed = TaskFeed(tasks, self.sizes.__getitem__)
        with job_lock(self.dataset.root):
            while (size := feed.next_shape()) is not None and not self.context.stop.is_set():
                _, height, _ = size
                if height:
                    yield from self._generate(self._generator(size), feed, size)
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

    def _generator(self, size: Size) -> VisualGenerator:
        """Return a generator whose KV cache is long enough for all prompts of one size."""
        options, settings = self.options, self.settings
        length = longest_prompt(self.plan, size) + max_body_length(size, self.renderer.sequences, self.codec)
        return self.model.visual_generator(
            options.batch_size, length, settings.sampling, settings.guidance_scale, options.window
        )

    def _generate(self, generator: VisualGenerator, feed: TaskFeed[Size], size: Size) -> Iterator[TaskResult]:
        """Generate until no prompt of this size is left, or the stop flag is set; then journal what is incomplete."""
        requests: Iterator[VisualRequest] = iter(())
        try:
            while not self.context.stop.is_set():
                while not generator.is_full:
                    if (request := next(requests, None)) is not None:
                        sequence = generator.add(request)
                        self._report({request.key: sequence.offset})
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

    def _step(self, generator: VisualGenerator) -> None:
        """Decode tokens of every running sequence, then journal finished sequences and those that are due."""
        running = generator.running
        tokens = Counter({sequence.request.key: -sequence.offset for sequence in running})
        finished = generator.step()
        self._journal([*finished, *filter(self._is_due, generator.running)])
        for sequence in running:  # a finished one has its last control tokens too
            tokens[sequence.request.key] += len(sequence.template) if sequence.is_done else sequence.offset
        self._report(tokens)
        for sequence in finished:
            self._record(sequence.request.key, sequence.codes_THW())

    def _is_due(self, sequence: VisualSequence) -> bool:
        progress, item = self.running[sequence.request.key]
        journaled = len(progress.journal.codes.get(item.src_index, ()))
        return sequence.code_count - journaled >= self.options.journal_rows * sequence.request.width

    def _report(self, tokens: Mapping[str, int]) -> None:
        """Report the tokens that were added to running sequences, summed by unit."""
        by_unit: Counter[int] = Counter()
        for key, count in tokens.items():
            progress, _ = self.running[key]
            by_unit[progress.unit.unit] += count
        for unit, count in by_unit.items():
            self.context.report_progress(unit, count)

    def _journal(self, sequences: Iterable[VisualSequence]) -> None:
        """Append the codes of running sequences to the journals of their units, and sync these."""
        journals = set()
        for sequence in sequences:
            progress, item = self.running[sequence.request.key]
            progress.journal.add(item.src_index, sequence.codes)
            journals.add(progress.journal)
        for journal in journals:
            journal.sync()

    def _open(self, task: Task) -> UnitProgress:
        identity = {"plan_sha256": self.plan.sha256_of(task.unit), "numerics": self.numerics}
        journal = Journal(self.dataset.journal_path(task.unit), identity, self.codec.code_dtype)
        self.open_units[task.unit] = UnitProgress(task, self.plan.unit(task.unit), journal)
        return self.open_units[task.unit]

    def _requests(self, progress: UnitProgress) -> Iterator[VisualRequest]:
        """Yield a request for every prompt of a unit; one that the journal completes becomes a record at once."""
        for item in progress.inputs:
            self.running[item.key] = progress, item
            request = self._request(progress, item)
            codes = [*request.prefix_codes, *request.codes]
            if len(codes) == request.frames * request.height * request.width:
                shape_THW = request.frames, request.height, request.width
                self._record(item.key, np.array(codes, self.codec.code_dtype).reshape(shape_THW))
            else:
                yield request

    def _request(self, progress: UnitProgress, item: PlannedInput) -> VisualRequest:
        from lm_stage.inference.visual_sequence import VisualRequest

        prompt = planned_prompt(progress.unit, item, self.codec)
        return VisualRequest(
            key=item.key,
            prompt_ids=self.renderer.prompt_ids(prompt),
            negative_ids=self.renderer.negative_ids(prompt),
            height=prompt.height,
            width=prompt.width,
            seed=prompt.seed,
            codes=tuple(progress.journal.codes.get(item.src_index, ())),
            is_replayed=self.options.resume == "replay",
            frames=progress.unit.frames,
            grid_format=self.renderer.grid_format(prompt),
            prefix_codes=self.renderer.prefix_codes(prompt).reshape(-1).tolist(),
        )

    def _record(self, key: str, codes_THW: np.ndarray) -> None:
        """Turn the codes of a finished image or video into a record of its unit."""
        progress, item = self.running.pop(key)
        prompt = planned_prompt(progress.unit, item, self.codec)
        planned = canonical_json({"key": item.key, "text": item.text, "extra": item.extra_json})
        progress.records[item.src_index] = SequenceRecord(
            key=item.key,
            src_index=item.src_index,
            kind="video" if prompt.frames else "image",
            codes_THW=codes_THW,
            text=item.text,
            src_uri=item.uri,
            src_sha256=hashlib.sha256(planned.encode()).digest(),
            src_h=progress.unit.height,
            src_w=progress.unit.width,
            fps=prompt.fps,
            prompt=self.renderer.text(prompt),
            negative_prompt=prompt.negative_prompt if self.renderer.is_guided else None,
            seed=prompt.seed,
            guidance_scale=self.settings.guidance_scale,
            sampling_json=canonical_json(sampling_to_json(self.settings.sampling)),
        )

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
