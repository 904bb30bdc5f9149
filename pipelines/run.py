"""Runs a pipeline: every step that is not done or whose inputs, options or versions have changed, in order.

What a step was run with stands in `OUT/.pipeline/STEP.json`. A step that was stopped resumes, because its command
does; what a changed step made before is moved to `OUT/stale/`, never removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.pipeline import Pipeline, Step
from shared.atomic import write_file
from shared.errors import Interrupted, RelayError
from shared.fingerprint import canonical_json, digest_of
from shared.jobs.locks import job_lock

VERSIONS = ("emu3-relay", "mindspore")


class StepFailed(RelayError):
    """A step ended with an error; its exit code becomes that of the run."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class StepState:
    """What there is to do for a step: done, changed, unfinished or new."""

    step: Step
    state: str
    digest: str


def plan_steps(pipeline: Pipeline, start_from: str | None = None) -> list[StepState]:
    """The state of every step; after `start_from` all are to be done again."""
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    for step in pipeline.steps:
        digest = digest_of(
            {
                "arguments": step.arguments,
                "inputs": [_content(path) for path in step.inputs if not _is_made(path, pipeline)],
                "needs": [digests[name] for name in step.needs],
                "versions": {name: version(name) for name in VERSIONS},
            }
        )
        digests[step.name] = digest
        recorded = _recorded(pipeline, step)
        is_there = step.output is None or step.output.exists()
        if not recorded:
            state = "new"
        elif recorded["digest"] != digest or step.name == start_from or stale & set(step.needs):
            state = "changed"
        else:
            state = "done" if recorded["done"] and is_there else "unfinished"
        if state != "done":
            stale.add(step.name)
        states.append(StepState(step, state, digest))
    return states


def run_pipeline(pipeline: Pipeline, start_from: str | None, say: Any) -> list[tuple[StepState, float]]:
    """Runs what is to be done; returns every step with its state before and the seconds it took.

    Raises StepFailed with the exit code of the first step that fails, Interrupted if it was stopped.
    """
    done = []
    with job_lock(pipeline.out, lambda: None):
        for state in plan_steps(pipeline, start_from):
            began = time.monotonic()
            if state.state != "done":
                if state.state == "changed":
                    _set_aside(pipeline, state.step)
                _note(pipeline, state, is_done=False)
                say(f"── {state.step.name}: emu3 {' '.join(state.step.arguments)}")
                _run(state.step)
                _note(pipeline, state, is_done=True)
            done.append((state, time.monotonic() - began))
    return done


def _run(step: Step) -> None:
    """The command in a process of its own; signals that end this one are passed on."""
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *step.arguments])
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    try:
        while True:
            try:
                exit_code = process.wait()
                break
            except KeyboardInterrupt:  # the terminal has sent it to the step too
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
    if exit_code == Interrupted.exit_code:
        raise Interrupted(f"step {step.name} was stopped; the same command resumes")
    if exit_code:
        raise StepFailed(f"step {step.name} failed with exit code {exit_code}; mend it and run again", abs(exit_code))


def _is_made(path: str, pipeline: Pipeline) -> bool:
    return any(step.output and Path(path.split(",")[0]).is_relative_to(step.output) for step in pipeline.steps)


def _content(text: str) -> str:
    """Digest of a file, or of the names, sizes and times of all files of a folder."""
    path = Path(text.split(",")[0])
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(Path(root) / name for root, _, names in os.walk(path) for name in names)
    return digest_of([[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files])


def _stamp(pipeline: Pipeline, step: Step) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.json"


def _recorded(pipeline: Pipeline, step: Step) -> dict[str, Any] | None:
    try:
        recorded = json.loads(_stamp(pipeline, step).read_bytes())
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) and {"digest", "done"} <= set(recorded) else None


def _note(pipeline: Pipeline, state: StepState, is_done: bool) -> None:
    path = _stamp(pipeline, state.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, canonical_json({"digest": state.digest, "done": is_done}).encode())


def _set_aside(pipeline: Pipeline, step: Step) -> None:
    """Moves what the step made to `stale/`, with whatever stands beside it under the same name."""
    if step.output is None:
        return
    number = 0
    while (aside := pipeline.out / "stale" / f"{step.name}-{number}").exists():
        number += 1
    for path in [step.output, *step.output.parent.glob(f"{step.output.name}.*")]:
        if path.exists():
            aside.mkdir(parents=True, exist_ok=True)
            path.rename(aside / path.name)


def table(done: Sequence[tuple[StepState, float]]) -> str:
    """One line a step."""
    width = max(len(state.step.name) for state, _ in done)
    lines = [
        f"{state.step.name:<{width}}  {state.step.command:<10}  {'was done' if state.state == 'done' else 'done':<8}"
        f"  {seconds:8.1f} s  {state.step.output or ''}"
        for state, seconds in done
    ]
    return "\n".join(lines)
