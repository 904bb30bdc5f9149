"""A pipeline file: named steps, each a command of this program, joined by `${step}` references.

    variables: {pictures: photos/}
    steps:
      codes:  {run: encode, source: "${pictures}", resize: area, area: 4096}
      tuned:  {run: sft, datasets: ["${codes}"], steps: 2000}
      images: {run: generate, prompts: prompts.txt, model: "${tuned}/model"}

Commands, options, references, places and whose codes meet are checked before a step starts; whether a model has room
for what it is given, the step finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import click
import yaml

from pipelines.workflow.codec_check import CodecCheck
from pipelines.workflow.step import OUTPUTS, Step, build_step, fill, maker_of, output_of, references
from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path
from vq_stage.sources.files import refusing_unreadable
from vq_stage.sources.open_source import expanded

EXAMPLES = Path(__file__).parents[1] / "examples"
RESERVED = ("package", "stale")  # a variable, and a folder beside the steps


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in an order in which they can run; outputs lie below `out`."""

    name: str
    out: Path
    steps: tuple[Step, ...]


class _Loader(yaml.BaseLoader):
    """All values are texts (16:9 is no number); a name that stands twice is refused, where YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_pipeline(location: str, changes: Mapping[str, str], out: str | None, commands: click.Group) -> Pipeline:
    """Reads a file, or a packaged example by its name, and checks it whole.

    `changes` are `variable=value` or `step.option=value`. Raises UsageError with every problem found.
    """
    path = Path(location) if Path(location).suffix in (".yaml", ".yml") else EXAMPLES / f"{location}.yaml"
    try:
        described = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        packaged = ", ".join(sorted(example.stem for example in EXAMPLES.glob("*.yaml")))
        raise UsageError(f"{path}: cannot be read as a pipeline: {error}; packaged are {packaged}") from error
    if problems := _shape_problems(described):
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    variables = {"package": str(Path(__file__).parents[2]), **(described.get("variables") or {})}
    steps = {name: {_key(key): value for key, value in step.items()} for name, step in described["steps"].items()}
    problems = _apply_changes(changes, variables, steps)
    if unknown := _shape_problems({"steps": steps}):
        raise UsageError("--set:\n  " + "\n  ".join(unknown))
    known: dict[str, str] = {}
    for name, value in variables.items():
        known[name] = fill(f"variable {name}", value, known)
    place = out or described.get("out") or path.stem
    if "://" in place:
        raise UsageError(f"--out {place}: expected a folder of this machine; steps may read from URLs")
    folder = Path(place)
    outputs = {name: output_of(folder, name, step) for name, step in steps.items()}
    built: dict[str, Step] = {}
    for name, step in steps.items():
        try:
            built[name] = build_step(name, step, known, outputs, commands)
        except UsageError as error:
            problems.append(str(error))
    needs = {name: set(built[name].needs) if name in built else references(step) for name, step in steps.items()}
    needs = {name: needed & set(steps) for name, needed in needs.items()}
    try:
        TopologicalSorter(needs).prepare()
        names = _in_file_order(needs)
    except CycleError as error:
        problems.append(f"steps need each other in a circle: {' → '.join(error.args[1])}")
        names = []
    problems += [problem for name in names if name in built for problem in _place_problems(built[name], outputs)]
    codecs = CodecCheck(partial(maker_of, outputs=outputs))
    problems += [problem for name in names if name in built for problem in codecs.problems(built[name])]
    if problems:
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    return Pipeline(path.stem, folder, tuple(built[name] for name in names))


def _shape_problems(described: Any) -> list[str]:
    if not isinstance(described, dict) or not isinstance(described.get("steps"), dict) or not described["steps"]:
        return ["expected `steps`, a mapping of names to steps"]
    problems = [
        f"unknown {key!r}; known are steps, variables, out" for key in set(described) - {"steps", "variables", "out"}
    ]
    variables = described.get("variables") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        return [*problems, "`variables`: expected a mapping of names to texts"]
    if not isinstance(described.get("out", ""), str):
        problems.append("`out`: expected a folder")
    if both := set(described["steps"]) & set(variables):
        problems.append(f"{', '.join(sorted(both))}: a variable and a step of one name")
    for name, step in described["steps"].items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or name in RESERVED:
            problems.append(f"step {name!r}: expected a name of letters, digits, - and _, not {' or '.join(RESERVED)}")
        if not isinstance(step, dict) or not isinstance(step.get("run"), str) or step["run"] not in OUTPUTS:
            problems.append(f"step {name!r}: expected `run: COMMAND`, one of {', '.join(OUTPUTS)}")
            continue
        spelled = [_key(key) for key in step]
        problems += [f"step {name!r}: {key} stands twice" for key in set(spelled) if spelled.count(key) > 1]
        for key, value in step.items():
            texts = value if isinstance(value, list) else [value]
            if not texts or not all(isinstance(one, str) for one in texts):
                problems.append(f"step {name!r}: {key}: expected a text or a list of texts")
    return problems


def _key(option: str) -> str:
    return option.replace("-", "_")


def _apply_changes(
    changes: Mapping[str, str], variables: dict[str, Any], steps: dict[str, dict[str, Any]]
) -> list[str]:
    problems = []
    for key, value in changes.items():
        step, _, option = key.partition(".")
        if option and step in steps:
            steps[step][_key(option)] = value
        elif key in variables:
            variables[key] = value
        else:
            problems.append(f"--set {key}: no such variable or step; known are {', '.join([*variables, *steps])}")
    return problems


def _in_file_order(needs: Mapping[str, set[str]]) -> list[str]:
    """Steps behind those they need, else as they stand in the file. There is no circle."""
    names: list[str] = []
    while len(names) < len(needs):
        names.append(next(name for name in needs if name not in names and needs[name] <= set(names)))
    return names


def _place_problems(step: Step, outputs: Mapping[str, Path | None]) -> list[str]:
    """Inputs that no step makes and that are not there, and those in which the step would write."""
    problems = []
    for _, text in step.inputs:
        if text == "-" or maker_of(text, outputs):
            continue
        try:
            with refusing_unreadable():
                if not _is_there(text):
                    problems.append(f"step {step.name}: {text}: no such file or folder, and no step makes it")
                elif _is_empty(Path(text)):
                    problems.append(f"step {step.name}: {text}: an empty folder; is it mounted?")
        except RefusedInput as refused:
            problems.append(f"step {step.name}: {text}: cannot be looked at: {refused}")
        if step.output and maker_of(str(step.output), {"": Path(text)}) is not None:
            problems.append(f"step {step.name}: {text}: holds what the steps write; give an --out outside of it")
    return problems


def _is_there(text: str) -> bool:
    try:
        return as_path(text).exists() or any(path.exists() for path in expanded(text))
    except UsageError:
        return False


def _is_empty(folder: Path) -> bool:
    """Of a folder of this machine."""
    return folder.is_dir() and not any(folder.iterdir())
