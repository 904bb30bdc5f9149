"""What is left to do for each step of a pipeline, compared with the record of its last run.

`OUT/.pipeline/` holds the records: `STEP.json` with digests, and `STEP.items` with the items of its inputs as uint64.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lm_stage.model.options import EMBEDDED_MODEL
from pipelines.workflow.inputs import InputState
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.step import Step, producer_of
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, digest_of
from shared.storage.paths import sha256_of
from vq_stage.model.weights import EMBEDDED_TOKENIZER

VERSIONED_PACKAGES = ("emu3-relay", "mindspore")
NO_ITEMS = np.zeros(0, np.uint64)


class StepStatus(Enum):
    """What a run has to do for a step."""

    NEW = "new"  # it never ran
    UNFINISHED = "unfinished"  # it was stopped, or its output is missing: its command resumes
    DONE = "done"
    CHANGED = "changed"  # its output is set aside and made again
    GROWN = "grown"  # its inputs have more items and are otherwise the same: its command adds those


@dataclass(frozen=True, slots=True)
class StepRecord:
    """With what a step last ran, as `STEP.json` and `STEP.items` hold it.

    `digest` covers everything that determines the result, `settings` all of it but the items of the inputs.
    `items` are uint64, sorted.
    """

    digest: str
    settings: str
    items: np.ndarray
    is_done: bool = False
    elapsed_s: float = 0.0

    @classmethod
    def read(cls, pipeline: Pipeline, step: Step) -> StepRecord | None:
        """None without a record that can be read."""
        items = _record_path(pipeline, step, "items")
        try:
            content = json.loads(_record_path(pipeline, step, "json").read_bytes())
            recorded_items = np.frombuffer(items.read_bytes() if items.is_file() else b"", np.uint64)
            seconds = content.get("seconds", 0.0)
            return cls(content["digest"], content["settings"], recorded_items, content["done"], seconds)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, pipeline: Pipeline, step: Step) -> None:
        seconds = round(self.elapsed_s, 1)
        content = {"digest": self.digest, "settings": self.settings, "done": self.is_done, "seconds": seconds}
        if not self.is_done:
            write_file(_record_path(pipeline, step, "items"), self.items.tobytes())
        write_file(_record_path(pipeline, step, "json"), canonical_json(content).encode())


@dataclass(frozen=True, slots=True)
class StepState:
    """A step, its status, and the record to write when it runs; `record.elapsed_s` is that of the last run."""

    step: Step
    status: StepStatus
    record: StepRecord


def plan_steps(pipeline: Pipeline, start_from: str | None = None) -> list[StepState]:
    """The state of every step, in order.

    `start_from` and the steps that need it run again, unless a run with the same `start_from` was stopped: that run
    has set their outputs aside already. Raises UsageError for an input that cannot be listed.
    """
    if start_from == interrupted_start(pipeline):
        start_from = None
    outputs = {step.name: step.output for step in pipeline.steps}
    versions, read_input = _versions(), cache(InputState.read)
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    for step in pipeline.steps:
        external = [one.location for one in step.inputs if not producer_of(one.location, outputs)]
        needed = [digests[name] for name in step.needs]
        record = _current_record(step, [read_input(location) for location in external], needed, versions)
        recorded = StepRecord.read(pipeline, step)
        is_invalidated = step.name == start_from or bool(stale & set(step.needs))
        status = step_status(step, record, recorded, is_invalidated)
        digests[step.name] = record.digest
        if status is not StepStatus.DONE:
            stale.add(step.name)
        elapsed_s = recorded.elapsed_s if recorded else 0.0
        states.append(StepState(step, status, replace(record, elapsed_s=elapsed_s)))
    return states


def step_status(step: Step, current: StepRecord, recorded: StepRecord | None, is_invalidated: bool) -> StepStatus:
    """Compare what determines the result of a step now with the record of its last run.

    `is_invalidated`: the step, or one that it needs, has to run again. Output without a record is of unknown origin,
    so it counts as changed.
    """
    output_exists = step.output is not None and step.output.exists()
    if recorded is None:
        return StepStatus.CHANGED if output_exists else StepStatus.NEW
    if is_invalidated:
        return StepStatus.CHANGED
    if recorded.digest == current.digest:
        is_complete = recorded.is_done and (output_exists or step.output is None)
        return StepStatus.DONE if is_complete else StepStatus.UNFINISHED
    is_same_command = step.command == "encode" and recorded.settings == current.settings
    has_only_grown = is_same_command and bool(np.isin(recorded.items, current.items).all())
    return StepStatus.GROWN if has_only_grown and output_exists else StepStatus.CHANGED


def interrupted_start(pipeline: Pipeline) -> str | None:
    """The step from which a stopped run was to do everything again."""
    path = pipeline.out / ".pipeline/from"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _versions() -> dict[str, object]:
    embedded = [sha256_of(folder / "model.safetensors") for folder in (EMBEDDED_MODEL, EMBEDDED_TOKENIZER)]
    return {**{name: version(name) for name in VERSIONED_PACKAGES}, "embedded": embedded}


def _current_record(step: Step, inputs: list[InputState], needed: list[str], versions: dict[str, object]) -> StepRecord:
    """What determines the result of a step now; `needed` are the digests of the steps that it needs."""
    items = np.sort(np.concatenate([NO_ITEMS, *(one.items for one in inputs)]))
    fixed = [one.fixed for one in inputs]
    settings = digest_of({"arguments": step.result_arguments, "versions": versions, "fixed": fixed, "needs": needed})
    digest = digest_of({"settings": settings, "items": hashlib.sha256(items.tobytes()).hexdigest()})
    return StepRecord(digest, settings, items)


def _record_path(pipeline: Pipeline, step: Step, suffix: str) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.{suffix}"
