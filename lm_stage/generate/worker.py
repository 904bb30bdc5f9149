"""What a process of the generation job does: keeps the slots of an image generator busy with the prompts of units."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_stage.generate.journal import Journal
from lm_stage.generate.options import GenerateOptions
from lm_stage.generate.planner import body_length, longest_prompt, planned_prompt
from lm_stage.model.model_directory import ModelDirectory
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Size, Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord, SequenceRecord
from shared.device import setup_device
from shared.jobs.file_locks import job_lock
from shared.jobs.job import Task, TaskResult, WorkerContext
from shared.jobs.numerics import check_numerics
from shared.jobs.task_feed import TaskFeed
from shared.storage.digests import canonical_json

if TYPE_CHECKING:
    from lm_stage.inference.visual_generator import VisualGenerator, VisualRequest, VisualSequence


class UnitWork:
    """What has been done of a task: its journal, finished records by `src_index`, refusals."""

    def __init__(self, task: Task, unit: Unit, journal: Journal | None):
        self.task = task
        self.unit = unit
        self.journal = journal
        self.began = time.monotonic()
        self.records: dict[int, CodeRecord] = {}
        died = ("worker_died", "the worker died each time it came to this prompt")
        reasons = {item.src_index: (item.refused_reason, item.refused_detail or "") for item in unit.inputs}
        reasons |= dict.fromkeys(task.poison, died)
        self.refusals = [
            Refusal(item.key, item.src_index, item.uri, reason, detail)
            for item in unit.inputs
            for reason, detail in [reasons[item.src_index]]
            if reason
        ]
        refused = {refusal.src_index for refusal in self.refusals}
        self.inputs = [
            item
            for item in unit.inputs
            if item.src_index not in refused and (not task.subset or item.src_index in task.subset)
        ]

    @property
    def is_complete(self) -> bool:
        return len(self.records) == len(self.inputs)


class GenerateWorker:
    """Writes images and videos and commits units of one dataset."""

    def __init__(self, options: GenerateOptions, context: WorkerContext):
        self.options, self.context = options, context
        self.source = ModelDirectory.open(options.model, options.layout, options.codec)
        self.renderer = options.renderer(self.source)
        self.dataset = Dataset.open(options.dataset)
        self.plan = self.dataset.plan()
        self.sizes = [(size.frames, size.height, size.width) for size in self.plan.sizes()]
        self.numerics: dict[str, Any] = {}
        self.work_in_hand: dict[int, UnitWork] = {}
        self.owners: dict[str, tuple[UnitWork, PlannedInput]] = {}
        if any(self.sizes[unit][1] for unit in self.dataset.missing_units(self.plan)):
            self._set_up()  # refused prompts need no device

    def work(self, tasks: Iterator[Task | None]) -> Iterator[TaskResult]:
        """All slots are kept busy over the units of one size."""
        feed = TaskFeed(tasks, self.sizes.__getitem__)
        with job_lock(self.dataset.root):
            while (size := feed.next_shape()) is not None and not self.context.stop.is_set():
                if size[1]:
                    yield from self._run_size(self._generator(size), feed, size)
                while not size[1] and (task := feed.take(size)):
                    yield self._finished(self._open(task))

    def _set_up(self) -> None:
        device = setup_device(self.options.device, self.options.dtype, ascend_dtype="bfloat16")
        self.numerics = {**device.numerics(), "backend": self.options.backend, "slots": self.options.batch_size}
        if not self.options.allow_numerics_change:
            check_numerics(self.dataset, self.numerics)

    def _generator(self, size: Size) -> VisualGenerator:
        """For all prompts of one size; loads the model when the first is needed."""
        model = self.source.load(self.options.device, self.options.dtype, self.options.backend)
        length = longest_prompt(self.plan, size) + body_length(size, self.renderer.templates.video_format)
        options = self.options
        return model.visual_generator(options.batch_size, length, options.sampling, options.guidance_scale)

    def _run_size(self, generator: VisualGenerator, feed: TaskFeed[Size], size: Size) -> Iterator[TaskResult]:
        """Until there is no task of this size and no image under way, or the stop flag is set."""
        requests: Iterator[VisualRequest] = iter(())
        try:
            while not self.context.stop.is_set():
                while not generator.is_full:
                    if (request := next(requests, None)) is not None:
                        self._note_progress([generator.add(request)], lambda slot: slot.offset)
                    elif (task := feed.take(size)) is not None:
                        requests = self._requests(self._open(task))
                    else:
                        break
                yield from self._finish_complete()
                if not generator.running:
                    return
                self._note_progress(generator.running, lambda slot: 1)
                for slot in generator.step():
                    self._finish_slot(slot)
                self._keep(slot for slot in generator.running if self._is_due(slot))
                yield from self._finish_complete()
        finally:
            self._keep(generator.running)
            for work in self.work_in_hand.values():
                if work.journal:
                    work.journal.close()

    def _note_progress(self, slots: Iterable[VisualSequence], tokens: Callable[[VisualSequence], int]) -> None:
        counts: Counter[int] = Counter()
        for slot in slots:
            counts[self.owners[slot.request.key][0].unit.unit] += tokens(slot)
        for unit, count in counts.items():
            self.context.report_progress(unit, count)

    def _open(self, task: Task) -> UnitWork:
        unit = self.plan.unit(task.unit)
        belongs = {"plan_sha256": self.plan.sha256, "numerics": self.numerics}
        journal = Journal(self.dataset.journal_path(unit.unit), belongs) if unit.height else None
        self.work_in_hand[unit.unit] = UnitWork(task, unit, journal)
        return self.work_in_hand[unit.unit]

    def _requests(self, work: UnitWork) -> Iterator[VisualRequest]:
        """Requests of the prompts of a unit that are not written yet."""
        from lm_stage.inference.visual_generator import VisualRequest

        assert work.journal is not None, "a unit with a size has a journal"
        for item in work.inputs:
            prompt = planned_prompt(work.unit, item)
            codes = work.journal.codes.get(item.src_index, [])
            self.owners[item.key] = (work, item)
            given = self.renderer.given_codes(prompt).reshape(-1).tolist()
            if len(given) + len(codes) == work.unit.frames * prompt.height * prompt.width:
                self._record(item.key, np.array([*given, *codes], np.uint16).reshape(-1, prompt.height, prompt.width))
                continue
            yield VisualRequest(
                key=item.key,
                prompt_ids=self.renderer.prompt_ids(prompt),
                negative_ids=self.renderer.negative_ids(prompt),
                height=prompt.height,
                width=prompt.width,
                seed=prompt.seed,
                frames=work.unit.frames,
                grid_format=self.renderer.body_template(prompt),
                prefix_codes=given,
                codes=tuple(codes),
                is_replayed=self.options.resume == "replay",
            )

    def _is_due(self, slot: VisualSequence) -> bool:
        return len(slot.codes) % (self.options.journal_rows * slot.request.width) == 0

    def _keep(self, slots: Iterable[VisualSequence]) -> None:
        """Journals the codes of running images."""
        journals = set()
        for slot in slots:
            work, item = self.owners[slot.request.key]
            assert work.journal is not None, "an image with a size has a journal"
            work.journal.add(item.src_index, slot.codes)
            journals.add(work.journal)
        for journal in journals:
            journal.sync()

    def _finish_slot(self, slot: VisualSequence) -> None:
        work, item = self.owners[slot.request.key]
        assert work.journal is not None, "an image with a size has a journal"
        work.journal.add(item.src_index, slot.codes)
        work.journal.sync()
        self.context.report_progress(work.unit.unit, len(slot.template) - slot.offset)  # the forced tail
        self._record(slot.request.key, slot.codes_THW())

    def _record(self, key: str, codes_THW: np.ndarray) -> None:
        work, item = self.owners.pop(key)
        prompt = planned_prompt(work.unit, item)
        entry = canonical_json({"key": item.key, "text": item.text, "extra": item.extra_json})
        work.records[item.src_index] = SequenceRecord(
            key=item.key,
            src_index=item.src_index,
            kind="video" if prompt.frames else "image",
            codes_THW=codes_THW,
            text=item.text,
            src_uri=item.uri,
            src_sha256=hashlib.sha256(entry.encode()).digest(),
            src_h=work.unit.height,
            src_w=work.unit.width,
            fps=prompt.fps,
            prompt=self.renderer.text(prompt),
            negative_prompt=prompt.negative_prompt if self.renderer.is_guided else None,
            seed=prompt.seed,
            guidance_scale=self.options.guidance_scale,
            sampling_json=canonical_json(asdict(self.options.sampling)),
        )

    def _finish_complete(self) -> Iterator[TaskResult]:
        for work in [work for work in self.work_in_hand.values() if work.is_complete]:
            yield self._finished(work)

    def _finished(self, work: UnitWork) -> TaskResult:
        """Commits a unit; what was asked of it in part stays in its journal."""
        del self.work_in_hand[work.unit.unit]
        if not work.task.subset:
            records = [work.records[index] for index in sorted(work.records)]
            numerics = self.numerics if work.unit.height else {}
            self.dataset.commit(
                UnitResult(work.unit.unit, records, refusals=work.refusals, numerics=numerics), self.plan
            )
        if work.journal:
            work.journal.close() if work.task.subset else work.journal.remove()
        elapsed_s = time.monotonic() - work.began
        return TaskResult(work.task, len(work.records), quarantined=len(work.refusals), elapsed_s=elapsed_s)
