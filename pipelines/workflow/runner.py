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
from pathlib import Path

from pipelines.workflow.pipeline import Pipeline
from pipelines.workflow.state import StepState, StepStatus, plan_steps
from pipelines.workflow.step import Step
from shared.errors import Interrupted, RelayError, UsageError
from shared.jobs.file_locks import locked_against_jobs, only_process
from shared.jobs.process_tree import environment_of_child
from shared.jobs.signals import StopFlag, stop_on_signals
from shared.storage.atomic import write_file

POLL_S = 0.2
END_S = 5.0  # for a command to end after a second Ctrl-C
ORPHAN_S = 30.0  # for workers of a killed command to save what they have


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
    held = f"{pipeline.out}: another `emu3 run` uses this folder; wait for it, or give another --out"
    with only_process(pipeline.out / ".pipeline/lock", held), stop_on_signals() as stop:
        states = plan_steps(pipeline, start_from)
        _prepare(pipeline, states, start_from, stop)
        try:
            for state in states:
                finished.append(_run_step(pipeline, state, stop, report))
        finally:
            report(step_table(finished, states[len(finished) :]))
        (pipeline.out / ".pipeline/from").unlink(missing_ok=True)
    return finished


def _prepare(pipeline: Pipeline, states: Sequence[StepState], start_from: str | None, stop: StopFlag) -> None:
    """Set stale outputs aside and mark steps as not done, all before the first one runs.

    A run that is stopped later must find every step that was to run again as not done.
    """
    for state in states:
        if state.status is StepStatus.CHANGED and state.step.output is not None:
            _set_aside(pipeline, state.step.name, state.step.output, stop)
        state.record.write(pipeline, state.step)
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
    record = replace(state.record, is_done=True, elapsed_s=time.monotonic() - started)
    record.write(pipeline, state.step)
    return replace(state, record=record)


def _run_command(step: Step, stop: StopFlag) -> None:
    """Run the command in a process of its own, which ends when this process does."""
    command = [sys.executable, "-m", "pipelines.cli", *step.arguments]
    process = subprocess.Popen(command, env=environment_of_child())
    try:
        exit_code = _exit_code(process, stop)
    except KeyboardInterrupt:
        _end(process)
        raise
    if exit_code == Interrupted.exit_code or (exit_code and stop.is_set()):
        raise Interrupted(f"step {step.name} was stopped, or waits for other jobs; run the same command to resume")
    if exit_code < 0:
        what = f"signal {-exit_code} ({signal.strsignal(-exit_code)})"
        raise StepFailed(f"step {step.name} was ended by {what}; run the same command to resume", RelayError.exit_code)
    if exit_code:
        raise StepFailed(f"step {step.name} failed with exit code {exit_code}; fix it and run again", exit_code)


def _exit_code(process: subprocess.Popen[bytes], stop: StopFlag) -> int:
    """Wait for a process; ask it once to stop after a signal.

    It is sent SIGTERM, whatever the signal was: Ctrl-C has reached it too, and a second SIGINT would mean more.
    """
    is_asked = False
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if stop.is_set() and not is_asked:
                is_asked = True
                process.terminate()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process after a second Ctrl-C, which has reached it too if it came from a terminal."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _set_aside(pipeline: Pipeline, name: str, output: Path, stop: StopFlag) -> None:
    """Move the output of a step to `stale/`, together with files beside it that have the same name and a suffix.

    Raises UsageError, and moves nothing, if a process still works in the output.
    """
    number = 0
    while (aside := pipeline.out / "stale" / f"{name}-{number}").exists():
        number += 1
    with _unused(output, stop):
        for path in [output, *output.parent.glob(f"{output.name}.*")]:
            if path.exists():
                aside.mkdir(parents=True, exist_ok=True)
                path.rename(aside / path.name)


@contextmanager
def _unused(output: Path, stop: StopFlag) -> Iterator[None]:
    """Hold the locks of an output, once no process works in it.

    Workers of a command that was killed end within seconds. Raises UsageError if a process does not.
    """
    until_s = time.monotonic() + ORPHAN_S
    while True:
        with locked_against_jobs(output) as is_unused:
            if is_unused:
                yield
                return
        stop.raise_if_set(f"{output} was not moved")
        if time.monotonic() >= until_s:
            raise UsageError(
                f"{output}: another process still works in it, so this output cannot be set aside and made again with"
                " other settings; wait until that process has ended, or end it, and run the same command"
            )
        time.sleep(POLL_S)


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
