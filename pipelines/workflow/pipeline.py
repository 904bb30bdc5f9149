"""A pipeline ready to run: its steps in order, checked as a whole before any of them starts.

Commands, options, references, inputs and tokenizers are checked, and options against the tokenizer of their step.
Whether a model has room for what it is given is only found by the step itself.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import click

from pipelines.workflow.codec_check import CodecCheck
from pipelines.workflow.command_line import output_path
from pipelines.workflow.file import PipelineFile, referenced_names, refuse, substitute
from pipelines.workflow.kinds import kind_problems
from pipelines.workflow.step import Step, build_step, producer_of
from pipelines.workflow.tokenizer_check import tokenizer_problems
from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path
from vq_stage.sources.files import refusing_unreadable
from vq_stage.sources.open_source import expanded


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in an order in which they can run; their outputs are below `out`."""

    name: str
    out: Path
    steps: tuple[Step, ...]


def load_pipeline(location: str, changes: Mapping[str, str], out: str | None, commands: click.Group) -> Pipeline:
    """Read a pipeline file, or a packaged example by its name, and check all of it.

    `changes` are values of `variable` or `step.option`; `out` overrides the output folder of the file.
    Raises UsageError with every problem found.
    """
    file, problems = PipelineFile.read(location).changed(changes)
    folder = Path(os.path.expanduser(out or file.out))
    if "://" in (out or file.out):
        raise UsageError(f"--out {out or file.out}: expected a folder on this machine; only inputs may be URLs")
    outputs = {name: output_path(folder, name, str(step["run"])) for name, step in file.steps.items()}
    variables = _variable_values(file)
    built: dict[str, Step] = {}
    for name, step in file.steps.items():
        try:
            built[name] = build_step(name, step, variables, outputs, commands)
        except UsageError as error:
            problems.append(str(error))
    steps: list[Step] = []
    try:
        steps = [built[name] for name in _execution_order(_needs(file, built)) if name in built]
    except CycleError as error:
        problems.append(f"steps need each other in a cycle: {' → '.join(error.args[1])}")
    problems += [problem for step in steps for problem in _location_problems(step, outputs)]
    problems += kind_problems(steps)
    problems += tokenizer_problems(steps)
    codecs = CodecCheck(partial(producer_of, outputs=outputs))
    problems += [problem for step in steps for problem in codecs.problems(step)]
    refuse(str(file.path), problems)
    return Pipeline(file.path.stem, folder, tuple(steps))


def _variable_values(file: PipelineFile) -> dict[str, str]:
    """Values of the variables; a variable may refer to those above it."""
    values: dict[str, str] = {}
    for name, text in file.variables.items():
        values[name] = substitute(f"variable {name}", text, values)
    return values


def _needs(file: PipelineFile, built: Mapping[str, Step]) -> dict[str, set[str]]:
    """The steps that each step needs; for a step that could not be built, those that it refers to."""
    needs = {
        name: set(built[name].needs) if name in built else referenced_names(step) for name, step in file.steps.items()
    }
    return {name: needed & set(file.steps) for name, needed in needs.items()}


def _execution_order(needs: Mapping[str, set[str]]) -> list[str]:
    """Order steps after those they need, and otherwise as in the file. Raises CycleError."""
    TopologicalSorter(needs).prepare()
    names: list[str] = []
    while len(names) < len(needs):
        names.append(next(name for name in needs if name not in names and needs[name] <= set(names)))
    return names


def _location_problems(step: Step, outputs: Mapping[str, Path | None]) -> Iterator[str]:
    """Find inputs that do not exist and that no step writes, and inputs that contain the output of the step."""
    for location in (one.location for one in step.inputs):
        if location == "-" or producer_of(location, outputs):
            continue
        if problem := _missing_input(location):
            yield f"step {step.name}: {location}: {problem}"
        if step.output and producer_of(str(step.output), {"": Path(location)}) is not None:
            yield f"step {step.name}: {location}: contains the outputs of the steps; give an --out outside of it"


def _missing_input(location: str) -> str | None:
    try:
        with refusing_unreadable():
            if not _exists(location):
                return f"no such file or folder, and no step writes it{_path_rules(location)}"
            if Path(location).is_dir() and not any(Path(location).iterdir()):
                return "the folder is empty; is it mounted?"
    except RefusedInput as refused:
        return f"cannot be read: {refused}"
    except UsageError as error:  # of braces: their first name does not exist, or they stand for too many
        return str(error).removeprefix(f"{location}: ") + _path_rules(location)
    return None


def _path_rules(location: str) -> str:
    """Return what to know about a path that does not exist."""
    rules = "" if Path(location).is_absolute() else f"; relative paths start at the working directory, {Path.cwd()}"
    return rules + ("; environment variables are not replaced, use --set" if "$" in location else "")


def _exists(location: str) -> bool:
    is_pattern = "{" in location or glob.has_magic(location)
    return as_path(location).exists() or (is_pattern and any(path.exists() for path in expanded(location)))
