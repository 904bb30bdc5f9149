"""What there is to do for each step of a pipeline, told from what it was last run with.

That stands in `OUT/.pipeline/`: `STEP.json` with digests, and `STEP.items`, what its inputs held: a number an item.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.model.model_directory import EMBEDDED_MODEL
from pipelines.workflow.file import Pipeline
from pipelines.workflow.inputs import Holding
from pipelines.workflow.step import Step, maker_of
from shared.storage.atomic import write_file
from shared.storage.digests import canonical_json, digest_of
from shared.storage.paths import sha256_of
from vq_stage.model.weights import EMBEDDED_TOKENIZER

VERSIONS = ("emu3-relay", "mindspore")


@dataclass(frozen=True, slots=True)
class StepState:
    """One step: `new`, `unfinished`, `done` (in so many seconds), `changed`, or `grown`.

    Grown is an encode step whose inputs hold more items and else what they held: its command takes those in. Changed
    is also what is there without a record of its making.
    `digest` is that of all, `settings` that of all but the items of its inputs; `items` are uint64, sorted.
    """

    step: Step
    state: str
    digest: str
    settings: str
    items: np.ndarray
    seconds: float


def plan_steps(pipeline: Pipeline, start_from: str | None = None) -> list[StepState]:
    """The state of every step; `start_from` and what needs it are to be done again, unless a run with it was stopped.

    Raises UsageError for an input that cannot be listed.
    """
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    if start_from == begun_from(pipeline):
        start_from = None  # what was to be done again has been set aside
    made = {step.name: step.output for step in pipeline.steps}
    embedded = [sha256_of(folder / "model.safetensors") for folder in (EMBEDDED_MODEL, EMBEDDED_TOKENIZER)]
    versions = {**{name: version(name) for name in VERSIONS}, "embedded": embedded}
    held_by = cache(Holding.of)
    for step in pipeline.steps:
        held = [held_by(place) for _, place in step.inputs if not maker_of(place, made)]
        fixed, needs = [one.fixed for one in held], [digests[name] for name in step.needs]
        items = np.sort(np.concatenate([np.zeros(0, np.uint64), *(one.items for one in held)]))
        settings = digest_of({"arguments": step.decisive, "versions": versions, "fixed": fixed, "needs": needs})
        digest = digest_of({"settings": settings, "items": hashlib.sha256(items.tobytes()).hexdigest()})
        digests[step.name] = digest
        recorded, before = _recorded(pipeline, step)
        is_there = step.output is not None and step.output.exists()
        if not recorded:
            state = "changed" if is_there else "new"
        elif step.name == start_from or stale & set(step.needs):
            state = "changed"
        elif recorded["digest"] == digest:
            state = "done" if recorded["done"] and (is_there or step.output is None) else "unfinished"
        else:
            is_same = step.command == "encode" and is_there and recorded["settings"] == settings
            state = "grown" if is_same and np.isin(before, items).all() else "changed"
        if state != "done":
            stale.add(step.name)
        states.append(StepState(step, state, digest, settings, items, recorded.get("seconds", 0.0)))
    return states


def note(pipeline: Pipeline, state: StepState, is_done: bool, seconds: float = 0.0) -> None:
    """Records with what a step is done, or is about to be."""
    described = {"digest": state.digest, "settings": state.settings, "done": is_done, "seconds": round(seconds, 1)}
    if not is_done:
        write_file(_place(pipeline, state.step, "items"), state.items.tobytes())
    write_file(_place(pipeline, state.step, "json"), canonical_json(described).encode())


def begun_from(pipeline: Pipeline) -> str | None:
    """The step from which a run that was stopped was to do everything again."""
    path = pipeline.out / ".pipeline/from"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _place(pipeline: Pipeline, step: Step, suffix: str) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.{suffix}"


def _recorded(pipeline: Pipeline, step: Step) -> tuple[dict[str, Any], np.ndarray]:
    """What the step was last run with, and the items its inputs held; empty if that is not known."""
    items = _place(pipeline, step, "items")
    try:
        recorded = json.loads(_place(pipeline, step, "json").read_bytes())
        before = np.frombuffer(items.read_bytes() if items.is_file() else b"", np.uint64)
    except (OSError, ValueError):
        return {}, np.zeros(0, np.uint64)
    is_whole = isinstance(recorded, dict) and {"digest", "settings", "done"} <= set(recorded)
    return recorded if is_whole else {}, before
