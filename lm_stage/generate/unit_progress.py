"""The progress of one unit: its refused prompts, its journal and the records that are complete."""

from __future__ import annotations

import time
from collections.abc import Collection

from lm_stage.generate.journal import Journal
from shared.dataset.plan import Unit
from shared.dataset.quarantine import Refusal
from shared.dataset.quarantine_reasons import WORKER_DIED
from shared.dataset.rows import CodeRecord
from shared.jobs.job import Task, TaskResult


def unit_refusals(unit: Unit, poison: Collection[int]) -> list[Refusal]:
    """Return the prompts that were refused while planning, and those that killed workers."""
    refusals = []
    for item in unit.inputs:
        reason, detail = item.refused_reason, item.refused_detail or ""
        if item.src_index in poison:
            reason, detail = WORKER_DIED, "the worker died each time it reached this prompt"
        if reason:
            refusals.append(Refusal(item.key, item.src_index, item.uri, reason, detail))
    return refusals


class UnitProgress:
    """What is done of a task; `inputs` are the prompts to generate and `records` the finished ones by `src_index`."""

    def __init__(self, task: Task, unit: Unit, journal: Journal):
        self.task = task
        self.unit = unit
        self.journal = journal
        self.refusals = unit_refusals(unit, task.poison)
        self.records: dict[int, CodeRecord] = {}
        refused = {refusal.src_index for refusal in self.refusals}
        requested = set(task.subset or (item.src_index for item in unit.inputs)) - refused
        self.inputs = [item for item in unit.inputs if item.src_index in requested]
        self._start_s = time.monotonic()

    @property
    def is_complete(self) -> bool:
        return len(self.records) == len(self.inputs)

    def result(self) -> TaskResult:
        elapsed_s = time.monotonic() - self._start_s
        return TaskResult(self.task, len(self.records), quarantined=len(self.refusals), elapsed_s=elapsed_s)
