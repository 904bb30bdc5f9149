"""Runs a pipeline: every step that is not done or whose inputs, options or versions have changed, in order.

A step that was stopped resumes, because its command does. The former output of a changed step is moved to
`OUT/stale/` and never removed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.state import StepState, StepStatus, plan_steps
from pipelines.workflow.step import Step
from shared.dataset.dataset import Dataset
from shared.errors import Interrupted, RelayError, UsageError
from shared.jobs.file_locks import try_lock
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import write_file

POLL_S = 0.2


class StepFailed(RelayError):
    """A step ended with an error; its exit code becomes that of the run."""

    def __init__(self, text: str, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code


def run_pipeline(pipeline: Pipeline, start_from: str | None, report: Callable[[str], None]) -> list[StepState]:
    """Run the steps that are not done; return all steps with their status before the run and the record after it.

    `report` receives a line at the start of each step, and a table of all steps at the end, even after an error.
    Raises StepFailed with the exit code of the first step that fails, Interrupted after a signal, and UsageError if
    another run uses the same output folder.
    """
    finished: list[StepState] = []
    with _run_lock(pipeline), stop_on_signals() as stop:
        states = plan_steps(pipeline, start_from)
        _prepare(pipeline, states, start_from)
        try:
            for state in states:
                finished.append(_run_step(pipeline, state, stop, report))
        finally:
            report(step_table(finished, states[len(finished) :]))
        (pipeline.out / ".pipeline/from").unlink(missing_ok=True)
    return finished


def _prepare(pipeline: Pipeline, states: Sequence[StepState], start_from: str | None) -> None:
    """Set stale outputs aside and mark steps as not done, all before the first one runs.

    A run that is stopped later must find every step that was to run again as not done.
    """
    for state in states:
        if state.status is StepStatus.CHANGED:
            _set_aside(pipeline, state.step)
        if state.status is not StepStatus.DONE:
            replace(state.record, elapsed_s=0.0).write(pipeline, state.step)
    if start_from:
        write_file(pipeline.out / ".pipeline/from", start_from.encode())


def _run_step(pipeline: Pipeline, state: StepState, stop: StopFlag, report: Callable[[str], None]) -> StepState:
    """Run a step unless it is done; return it with its new record."""
    if state.status is StepStatus.DONE:
        return state
    started = time.monotonic()
    stop.raise_if_set(f"before step {state.step.name}")
    report(f"── {state.step.name}: emu3 {' '.join(state.step.arguments)}")
    _run_command(state.step, stop)
    _check_complete(state.step)
    record = replace(state.record, is_done=True, elapsed_s=time.monotonic() - started)
    record.write(pipeline, state.step)
    return replace(state, record=record)


@contextmanager
def _run_lock(pipeline: Pipeline) -> Iterator[None]:
    (pipeline.out / ".pipeline").mkdir(parents=True, exist_ok=True)
    lock = try_lock(pipeline.out / ".pipeline/lock")
    if lock is None:
        raise UsageError(f"{pipeline.out}: another `emu3 run` uses this folder; wait for it, or give another --out")
    try:
        yield
    finally:
        lock.release()


def _run_command(step: Step, stop: StopFlag) -> None:
    """Run the command in a process of its own and pass signals on to it.

    From a terminal the process receives SIGINT twice, which does no harm.
    """
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *step.arguments])
    forwarded = ""
    while (exit_code := _poll(process)) is None:
        if stop.signal_name != forwarded:
            forwarded = stop.signal_name
            process.send_signal(signal.Signals[forwarded])
    if exit_code == Interrupted.exit_code or (exit_code and stop.is_set()):
        raise Interrupted(f"step {step.name} was stopped; run the same command to resume")
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        raise StepFailed(f"step {step.name} was ended by {name}; run the same command to resume", RelayError.exit_code)
    if exit_code:
        raise StepFailed(f"step {step.name} failed with exit code {exit_code}; fix it and run again", exit_code)


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process, None if it still runs after POLL_S."""
    try:
        return process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _check_complete(step: Step) -> None:
    """Raise StepFailed for a dataset with units that another process is still working on."""
    if step.command not in ("encode", "generate") or step.output is None:
        return
    dataset = Dataset.open(step.output)
    if missing := dataset.missing_units(dataset.plan()):
        text = f"another process is still working on {len(missing)} units; run again once it has ended"
        raise StepFailed(f"step {step.name}: {text}", RelayError.exit_code)


def _set_aside(pipeline: Pipeline, step: Step) -> None:
    """Move the output of a step to `stale/`, together with files beside it that have the same name and a suffix."""
    if step.output is None:
        return
    number = 0
    while (aside := pipeline.out / "stale" / f"{step.name}-{number}").exists():
        number += 1
    for path in [step.output, *step.output.parent.glob(f"{step.output.name}.*")]:
        if path.exists():
            aside.mkdir(parents=True, exist_ok=True)
            path.rename(aside / path.name)


def step_table(finished: Sequence[StepState], remaining: Sequence[StepState]) -> str:
    """One line per step: the finished ones with their seconds, then the one that ended the run, then the rest."""
    outcomes = ["done"] * len(finished) + ["not done"] + ["not started"] * len(remaining)
    states = [*finished, *remaining]
    width = max(len(state.step.name) for state in states)
    lines = []
    for state, outcome in zip(states, outcomes):
        outcome = "already done" if state.status is StepStatus.DONE else outcome
        elapsed_s = state.record.elapsed_s if outcome in ("done", "already done") else 0.0
        step = state.step
        lines.append(
            f"{step.name:<{width}}  {step.command:<10}  {outcome:<12}  {elapsed_s:8.1f} s  {step.output or ''}"
        )
    return "\n".join(lines)
