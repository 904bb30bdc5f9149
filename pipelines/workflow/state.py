"""What is left to do for each step of a pipeline, compared with the record of its last run.

`OUT/.pipeline/` holds the records: `STEP.json` with digests, and `STEP.items` with the items of its inputs as uint64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lm_stage.model.options import EMBEDDED_MODEL
from pipelines.workflow.contents import compare, contents_digest, read_files
from pipelines.workflow.inputs import InputState
from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.step import Step, producer_of
from shared.dataset.change import Change
from shared.errors import RelayError
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, digest_of
from shared.storage.paths import sha256_of
from shared.storage.small_files import read_json_object
from vq_stage.encode.options import EncodeOptions
from vq_stage.model.weights import EMBEDDED_TOKENIZER

VERSIONED_PACKAGES = ("emu3-relay", "mindspore")
OPTIONAL_TEXTS = ("command", "contents", "seen", "retried")  # of a record
UPDATE_TEXTS = "--update-texts"
NO_ITEMS = np.zeros(0, np.uint64)


class StepStatus(Enum):
    """What a run has to do for a step."""

    NEW = "new"  # it never ran
    UNFINISHED = "unfinished"  # it was stopped, or its output is missing: its command resumes
    DONE = "done"
    CHANGED = "changed"  # its output is set aside and made again
    GROWN = "grown"  # its inputs have more items, or some to try again, and are otherwise the same: its command resumes
    TEXTS = "texts"  # as GROWN, and captions or labels are different: its command also replaces those


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step last ran with, as it is stored in `STEP.json` and `STEP.items`.

    `digest` covers everything that determines the result, with sizes and times for most files; `settings` covers all
    of it but the items of the inputs, and `command` all of it but the inputs. `contents` is a digest of the bytes of
    the inputs. `seen` is the digest of the inputs as they were last found, with the same content but other times.
    `retried` is the value of --retry-quarantined; with `updates_texts`, the command replaces texts. `items` are uint64,
    sorted. Records of earlier versions have neither of `command`, `contents`, `retried` and `updates_texts`.
    """

    digest: str
    settings: str
    items: np.ndarray
    command: str = ""
    contents: str = ""
    seen: str = ""
    retried: str = ""
    updates_texts: bool = False
    is_done: bool = False
    elapsed_s: float = 0.0

    @classmethod
    def read(cls, pipeline: Pipeline, step: Step) -> StepRecord | None:
        """Return the record of a step; None if there is none, or if it cannot be read."""
        items = _record_path(pipeline, step, "items")
        try:
            content = read_json_object(_record_path(pipeline, step, "json"))
            recorded_items = np.frombuffer(items.read_bytes() if items.is_file() else b"", np.uint64)
            texts = {name: content.get(name, "") for name in OPTIONAL_TEXTS}
            seconds = float(content.get("seconds", 0.0))
            return cls(
                content["digest"],
                content["settings"],
                recorded_items,
                **texts,
                updates_texts=content.get("updates_texts", False),
                is_done=content["done"],
                elapsed_s=seconds,
            )
        except (OSError, RelayError, ValueError, KeyError, TypeError):
            return None

    def write(self, pipeline: Pipeline, step: Step) -> None:
        seconds = round(self.elapsed_s, 1)
        texts = {name: getattr(self, name) for name in ("digest", "settings", *OPTIONAL_TEXTS)}
        content = {**texts, "updates_texts": self.updates_texts, "done": self.is_done, "seconds": seconds}
        write_file(_record_path(pipeline, step, "items"), self.items.tobytes())
        write_file(_record_path(pipeline, step, "json"), canonical_json(content).encode())


@dataclass(frozen=True, slots=True)
class StepState:
    """A step, its status, and the record to write when it runs; `record.elapsed_s` is that of the last run."""

    step: Step
    status: StepStatus
    record: StepRecord


def plan_steps(pipeline: Pipeline, start_from: str | None = None, is_dry_run: bool = False) -> list[StepState]:
    """Return the state of every step, in order. A dry run reads the content of inputs only if the status needs it.

    `start_from` and the steps that need it run again, unless a run with the same `start_from` was stopped: that run
    has set their outputs aside already. Raises UsageError for an input that cannot be listed.
    """
    if start_from == interrupted_start(pipeline):
        start_from = None
    outputs = {step.name: step.output for step in pipeline.steps}
    versions, read_input, read_contents = _versions(), cache(InputState.read), cache(read_files)
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    for step in pipeline.steps:
        external = [one for one in step.inputs if not producer_of(one.location, outputs)]
        needed = [digests[name] for name in step.needs]
        record = _current_record(step, [read_input(one.location, one.media_root) for one in external], needed, versions)
        recorded = StepRecord.read(pipeline, step)
        is_invalidated = step.name == start_from or bool(stale & set(step.needs))
        contents = partial(contents_digest, step, external, read_contents)
        status = step_status(step, record, recorded, is_invalidated, partial(_compare, step, contents))
        if recorded and status in (StepStatus.DONE, StepStatus.UNFINISHED):
            record = replace(record, digest=recorded.digest, contents=recorded.contents, seen=record.digest)
        if not (record.contents or is_dry_run):
            record = replace(record, contents=contents())
        digests[step.name] = record.digest
        if status is not StepStatus.DONE:
            stale.add(step.name)
        is_done, elapsed_s = status is StepStatus.DONE, recorded.elapsed_s if recorded else 0.0
        was_updating = recorded is not None and recorded.updates_texts and not recorded.is_done
        updates_texts = was_updating or status is StepStatus.TEXTS
        record = replace(record, is_done=is_done, elapsed_s=elapsed_s, updates_texts=updates_texts)
        states.append(StepState(_updating_texts(step) if updates_texts else step, status, record))
    return states


def _updating_texts(step: Step) -> Step:
    command, *others = step.arguments
    return step if UPDATE_TEXTS in others else replace(step, arguments=(command, UPDATE_TEXTS, *others))


def _compare(step: Step, contents: Callable[[], str], recorded: StepRecord) -> Change:
    return compare(step) if recorded.contents == contents() else Change.CHANGED


def step_status(
    step: Step,
    current: StepRecord,
    recorded: StepRecord | None,
    is_invalidated: bool,
    compare: Callable[[StepRecord], Change],
) -> StepStatus:
    """Compare what determines the result of a step now with the record of its last run.

    `is_invalidated`: the step, or one that it needs, has to run again. Output without a record is of unknown origin,
    so it counts as changed. `compare` reads the inputs, and is only called if nothing but their sizes and times shows
    whether they have changed.
    """
    output_exists = step.output is not None and step.output.exists()
    if recorded is None:
        return StepStatus.CHANGED if output_exists else StepStatus.NEW
    if is_invalidated:
        return StepStatus.CHANGED
    may_grow = recorded.settings == current.settings and step.command == "encode"
    if current.digest in (recorded.digest, recorded.seen):
        change = Change.NONE
    elif may_grow and output_exists and bool(np.isin(recorded.items, current.items).all()):
        change = Change.GROWN
    elif recorded.command and recorded.command == current.command and (output_exists or step.output is None):
        change = compare(recorded)
    else:
        change = Change.CHANGED
    if change is Change.NONE and current.retried not in ("", recorded.retried):
        change = Change.GROWN
    if change is Change.NONE:
        is_complete = recorded.is_done and (output_exists or step.output is None)
        return StepStatus.DONE if is_complete else StepStatus.UNFINISHED
    return StepStatus(change.value)


def interrupted_start(pipeline: Pipeline) -> str | None:
    """Return the step from which a stopped run was to do everything again; None if there is none."""
    path = pipeline.out / ".pipeline/from"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _versions() -> dict[str, object]:
    embedded = [sha256_of(folder / "model.safetensors") for folder in (EMBEDDED_MODEL, EMBEDDED_TOKENIZER)]
    return {**{name: version(name) for name in VERSIONED_PACKAGES}, "embedded": embedded}


def _current_record(step: Step, inputs: list[InputState], needed: list[str], versions: dict[str, object]) -> StepRecord:
    """Return what determines the result of a step now; `needed` are the digests of the steps that it needs."""
    items = np.sort(np.concatenate([NO_ITEMS, *(one.items for one in inputs)]))
    fixed = [one.fixed for one in inputs]
    settings = digest_of({"arguments": step.result_arguments, "versions": versions, "fixed": fixed, "needs": needed})
    digest = digest_of({"settings": settings, "items": hashlib.sha256(items.tobytes()).hexdigest()})
    command = digest_of({"arguments": step.result_arguments, "versions": versions, "needs": needed})
    retried = step.options.retry_quarantined if isinstance(step.options, EncodeOptions) else ()
    return StepRecord(digest, settings, items, command, retried=",".join(retried))


def _record_path(pipeline: Pipeline, step: Step, suffix: str) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.{suffix}"
