"""Pipelines for tests: two steps over a folder of photos, and a stand-in for their commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from pipelines.cli import main
from pipelines.workflow.pipeline import Pipeline, load_pipeline
from pipelines.workflow.runner import StepFailed, run_pipeline
from pipelines.workflow.step import Step
from shared.jobs.signals import StopFlag

CHAIN = {
    "steps": {
        "pictures": {"run": "decode", "dataset": "${codes}"},
        "codes": {"run": "encode", "source": "${here}/photos", "resize": "none"},
    },
    "variables": {"here": "."},
}


def load(described: object, changes: dict[str, str] | None = None) -> Pipeline:
    """Write a pipeline to `p.yaml` in the current folder and load it."""
    Path("p.yaml").write_text(described if isinstance(described, str) else yaml.safe_dump(described))
    return load_pipeline("p.yaml", changes or {}, None, main)


def steps(**named: dict[str, object]) -> dict[str, object]:
    return {"steps": named}


class StandInCommands:
    """Stands in for the commands: writes a file into each step's output and notes the order."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: str | None = None

    def __call__(self, step: Step, stop: StopFlag) -> None:
        self.ran.append(step.name)
        if step.name == self.fails:
            raise StepFailed(f"step {step.name} failed", 1)
        if step.output is not None:
            step.output.mkdir(parents=True, exist_ok=True)
            (step.output / "made").write_text(" ".join(step.arguments))


def steps_run(commands: StandInCommands, pipeline: Pipeline, start_from: str | None = None) -> Sequence[str]:
    """Run a pipeline and return the names of the steps that were run."""
    commands.ran.clear()
    run_pipeline(pipeline, start_from, lambda text: None)
    return list(commands.ran)
