"""What is left to do for each step of a pipeline, compared with the record of its last run.

`OUT/.pipeline/` holds the records: `STEP.json` with digests, and `STEP.items` with the items of its inputs as uint64.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lm_stage.model.model_directory import EMBEDDED_MODEL
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
class StepFacts:
    """What decides the status of a step.

    `is_invalidated`: it, or a step that it needs, has to run again. `is_same`: its options, inputs and versions are
    those of the record. `has_only_grown`: they differ from those by additional items of its inputs only.
    """

    is_recorded: bool
    is_recorded_done: bool
    has_output: bool
    output_exists: bool
    is_invalidated: bool
    is_same: bool
    has_only_grown: bool


def step_status(facts: StepFacts) -> StepStatus:
    """Decide what to do. Output without a record is of unknown origin, so it counts as changed."""
    if not facts.is_recorded:
        return StepStatus.CHANGED if facts.output_exists else StepStatus.NEW
    if facts.is_invalidated:
        return StepStatus.CHANGED
    if facts.is_same:
        is_complete = facts.is_recorded_done and (facts.output_exists or not facts.has_output)
        return StepStatus.DONE if is_complete else StepStatus.UNFINISHED
    return StepStatus.GROWN if facts.has_only_grown and facts.output_exists else StepStatus.CHANGED


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
            return cls(
                content["digest"],
                content["settings"],
                recorded_items,
                content["done"],
                content.get("seconds", 0.0),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, pipeline: Pipeline, step: Step) -> None:
        content = {
            "digest": self.digest,
            "settings": self.settings,
            "done": self.is_done,
            "seconds": round(self.elapsed_s, 1),
        }
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
        status = step_status(_facts(step, record, recorded, is_invalidated))
        digests[step.name] = record.digest
        if status is not StepStatus.DONE:
            stale.add(step.name)
        elapsed_s = recorded.elapsed_s if recorded else 0.0
        states.append(
            StepState(step, status, StepRecord(record.digest, record.settings, record.items, False, elapsed_s))
        )
    return states


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


def _facts(step: Step, record: StepRecord, recorded: StepRecord | None, is_invalidated: bool) -> StepFacts:
    return StepFacts(
        is_recorded=recorded is not None,
        is_recorded_done=recorded is not None and recorded.is_done,
        has_output=step.output is not None,
        output_exists=step.output is not None and step.output.exists(),
        is_invalidated=is_invalidated,
        is_same=recorded is not None and recorded.digest == record.digest,
        has_only_grown=step.command == "encode"
        and recorded is not None
        and recorded.settings == record.settings
        and bool(np.isin(recorded.items, record.items).all()),
    )


def _record_path(pipeline: Pipeline, step: Step, suffix: str) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.{suffix}"
