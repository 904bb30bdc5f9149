"""Runs a pipeline: every step that is not done or whose inputs, options or versions have changed, in order.

A step that was stopped resumes, because its command does; what a changed step made before is moved to `OUT/stale/`,
never removed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.workflow.file import Pipeline
from pipelines.workflow.state import StepState, note, plan_steps
from pipelines.workflow.step import Step
from shared.dataset.dataset import Dataset
from shared.errors import Interrupted, RelayError, UsageError
from shared.jobs.file_locks import try_lock
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import write_file

TICK_S = 0.2


class StepFailed(RelayError):
    """A step ended with an error; its exit code becomes that of the run."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def run_pipeline(
    pipeline: Pipeline, start_from: str | None, say: Callable[[str], None]
) -> list[tuple[StepState, float]]:
    """Runs what is to be done; returns every step with its state before and the seconds it took.

    Says each step as it begins, and a table of all when it ends, however that is. Raises StepFailed with the exit
    code of the first step that fails, Interrupted if it was stopped, UsageError if another run works in the same place.
    """
    done: list[tuple[StepState, float]] = []
    with _alone(pipeline), stop_on_signals() as stop:
        states = plan_steps(pipeline, start_from)
        for state in states:  # all before the first runs: a run that is stopped must find them not done
            if state.state == "changed":
                _set_aside(pipeline, state.step)
            if state.state != "done":
                note(pipeline, state, is_done=False)
        if start_from:
            write_file(pipeline.out / ".pipeline/from", start_from.encode())
        try:
            for state in states:
                done.append((state, _seconds_of(pipeline, state, stop, say)))
        finally:
            say(table(done, states[len(done) :]))
        (pipeline.out / ".pipeline/from").unlink(missing_ok=True)
    return done


def _seconds_of(pipeline: Pipeline, state: StepState, stop: StopFlag, say: Callable[[str], None]) -> float:
    """Does a step unless it is done."""
    if state.state == "done":
        return state.seconds
    began = time.monotonic()
    stop.raise_if_set(f"before step {state.step.name}")
    say(f"── {state.step.name}: emu3 {' '.join(state.step.arguments)}")
    _run(state.step, stop)
    _check_complete(state.step)
    seconds = time.monotonic() - began
    note(pipeline, state, is_done=True, seconds=seconds)
    return seconds


@contextmanager
def _alone(pipeline: Pipeline) -> Iterator[None]:
    (pipeline.out / ".pipeline").mkdir(parents=True, exist_ok=True)
    claim = try_lock(pipeline.out / ".pipeline/lock")
    if claim is None:
        raise UsageError(f"{pipeline.out}: another `emu3 run` works here; wait for it, or give another --out")
    try:
        yield
    finally:
        claim.release()


def _run(step: Step, stop: StopFlag) -> None:
    """The command in a process of its own; signals are passed on; another SIGINT from a terminal does no harm."""
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *step.arguments])
    told = ""
    while (exit_code := _exit_code(process)) is None:
        if stop.signal_name != told:
            told = stop.signal_name
            process.send_signal(signal.Signals[told])
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


def table(done: Sequence[tuple[StepState, float]], left: Sequence[StepState]) -> str:
    """One line a step: those that are done with their seconds, then the one that ended the run, then the rest."""
    lines = [(state, "was done" if state.state == "done" else "done", seconds) for state, seconds in done]
    for number, state in enumerate(left):
        word = "was done" if state.state == "done" else "not begun" if number else "not done"
        lines.append((state, word, state.seconds if state.state == "done" else 0.0))
    width = max(len(state.step.name) for state, _, _ in lines)
    return "\n".join(
        f"{state.step.name:<{width}}  {state.step.command:<10}  {word:<9}  {seconds:8.1f} s  {state.step.output or ''}"
        for state, word, seconds in lines
    )
