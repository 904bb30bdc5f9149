"""Runs a pipeline: every step that is not done or whose inputs, options or versions have changed, in order.

What a step was run with stands in `OUT/.pipeline/STEP.json`. A step that was stopped resumes, because its command
does; what a changed step made before is moved to `OUT/stale/`, never removed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_stage.source import EMBEDDED_MODEL
from pipelines.pipeline import Pipeline, Step, maker_of
from shared.atomic import write_file
from shared.dataset import Dataset
from shared.errors import Interrupted, RelayError, UsageError
from shared.fingerprint import canonical_json, digest_of
from shared.jobs.locks import try_claim
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage import sha256_of
from vq_stage.sources import expanded
from vq_stage.weights import EMBEDDED_TOKENIZER

VERSIONS = ("emu3-relay", "mindspore")
TICK_S = 0.2


class StepFailed(RelayError):
    """A step ended with an error; its exit code becomes that of the run."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class StepState:
    """What there is to do for a step: done (in so many seconds), changed, unfinished or new."""

    step: Step
    state: str
    digest: str
    seconds: float = 0.0


def plan_steps(pipeline: Pipeline, start_from: str | None = None) -> list[StepState]:
    """The state of every step; after `start_from` all are to be done again, unless a run with it was stopped."""
    states: list[StepState] = []
    digests: dict[str, str] = {}
    stale: set[str] = set()
    if start_from == _begun_from(pipeline):
        start_from = None  # what was to be done again has been set aside
    made = {step.name: step.output for step in pipeline.steps}
    embedded = [sha256_of(folder / "model.safetensors") for folder in (EMBEDDED_MODEL, EMBEDDED_TOKENIZER)]
    for step in pipeline.steps:
        digest = digest_of(
            {
                "arguments": step.decisive,
                "inputs": [_content(text) for text in step.inputs if not maker_of(text, made)],
                "needs": [digests[name] for name in step.needs],
                "versions": {**{name: version(name) for name in VERSIONS}, "embedded": embedded},
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
        states.append(StepState(step, state, digest, (recorded or {}).get("seconds", 0.0)))
    return states


def run_pipeline(pipeline: Pipeline, start_from: str | None, say: Any) -> list[tuple[StepState, float]]:
    """Runs what is to be done; returns every step with its state before and the seconds it took.

    Raises StepFailed with the exit code of the first step that fails, Interrupted if it was stopped, UsageError if
    another run works in the same place.
    """
    done = []
    with _alone(pipeline), stop_on_signals() as stop:
        states = plan_steps(pipeline, start_from)
        for state in states:  # all before the first runs: a run that is stopped must find them not done
            if state.state == "changed":
                _set_aside(pipeline, state.step)
            if state.state != "done":
                _note(pipeline, state, is_done=False)
        if start_from:
            write_file(pipeline.out / ".pipeline/from", start_from.encode())
        for state in states:
            began = time.monotonic()
            if state.state != "done":
                stop.raise_if_set(f"before step {state.step.name}")
                say(f"── {state.step.name}: emu3 {' '.join(state.step.arguments)}")
                _run(state.step, stop)
                _check_complete(state.step)
                _note(pipeline, state, is_done=True, seconds=time.monotonic() - began)
            done.append((state, state.seconds if state.state == "done" else time.monotonic() - began))
        (pipeline.out / ".pipeline/from").unlink(missing_ok=True)
    return done


@contextmanager
def _alone(pipeline: Pipeline) -> Iterator[None]:
    (pipeline.out / ".pipeline").mkdir(parents=True, exist_ok=True)
    claim = try_claim(pipeline.out / ".pipeline/lock")
    if claim is None:
        raise UsageError(f"{pipeline.out}: another `emu3 run` works here; wait for it, or give another --out")
    try:
        yield
    finally:
        claim.release()


def _begun_from(pipeline: Pipeline) -> str | None:
    """The step from which a run that was stopped was to do everything again."""
    path = pipeline.out / ".pipeline/from"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _run(step: Step, stop: StopFlag) -> None:
    """The command in a process of its own; SIGTERM is passed on, SIGINT comes to it from the terminal itself."""
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *step.arguments])
    is_told = False
    while (exit_code := _exit_code(process)) is None:
        if stop.is_set() and not is_told:
            is_told = True
            if stop.signal_name == "SIGTERM":
                process.send_signal(signal.SIGTERM)
    if exit_code == Interrupted.exit_code or (exit_code and stop.is_set()):
        raise Interrupted(f"step {step.name} was stopped; the same command resumes")
    if exit_code < 0:
        raise StepFailed(
            f"step {step.name} was ended by {signal.Signals(-exit_code).name}; the same command resumes", 1
        )
    if exit_code:
        raise StepFailed(f"step {step.name} failed with exit code {exit_code}; mend it and run again", exit_code)


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Waits a tick for it."""
    try:
        return process.wait(TICK_S)
    except subprocess.TimeoutExpired:
        return None


def _check_complete(step: Step) -> None:
    """Raises StepFailed for a dataset some units of which another process still works on."""
    if step.command not in ("encode", "generate") or step.output is None:
        return
    dataset = Dataset.open(step.output)
    if missing := dataset.missing_units(dataset.plan()):
        raise StepFailed(
            f"step {step.name}: another process still works on {len(missing)} units; run again once it has ended", 1
        )


def _content(text: str) -> str:
    """Digest of a file, or of names, sizes and times of the files of a folder or pattern. Nothing remote is seen."""
    if "://" in text or text == "-":
        return text
    path = Path(text)
    if path.is_file():
        return sha256_of(path)
    if path.is_dir():
        files = sorted(Path(root) / name for root, _, names in os.walk(path) for name in names)
    else:
        files = list(expanded(text))
    return digest_of(
        [[str(file.relative_to(path) if path.is_dir() else file), *_size_and_time(file)] for file in files]
    )


def _size_and_time(file: Path) -> list[int]:
    """Nothing for a link that leads nowhere."""
    try:
        found = file.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _stamp(pipeline: Pipeline, step: Step) -> Path:
    return pipeline.out / ".pipeline" / f"{step.name}.json"


def _recorded(pipeline: Pipeline, step: Step) -> dict[str, Any] | None:
    try:
        recorded = json.loads(_stamp(pipeline, step).read_bytes())
    except (OSError, ValueError):
        return None
    return recorded if isinstance(recorded, dict) and {"digest", "done"} <= set(recorded) else None


def _note(pipeline: Pipeline, state: StepState, is_done: bool, seconds: float = 0.0) -> None:
    described = {"digest": state.digest, "done": is_done, "seconds": round(seconds, 1)}
    write_file(_stamp(pipeline, state.step), canonical_json(described).encode())


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
