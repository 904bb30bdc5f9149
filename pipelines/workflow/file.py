"""A pipeline file: named steps, each a command of this program, connected by `${step}` references.

variables: {pictures: photos/}
steps:
  codes:  {run: encode, source: "${pictures}", resize: area, area: 4096}
  tuned:  {run: sft, datasets: ["${codes}"], steps: 2000}
  images: {run: generate, prompts: prompts.txt, model: "${tuned}/model"}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.workflow.command_line import OUTPUT_PARAMETERS
from pipelines.workflow.yaml_file import load_yaml
from shared.errors import UsageError

EXAMPLES = Path(__file__).parents[1] / "examples"
RESERVED_NAMES = ("package", "stale")  # a predefined variable, and a folder beside the outputs of the steps
SECTIONS = ("steps", "variables", "out")
_REFERENCE = re.compile(r"\$\{([^}]+)\}")

StepOptions = Mapping[str, str | list[str]]


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """The content of a pipeline file: variables and steps with their options, before references are replaced."""

    path: Path
    variables: Mapping[str, str]
    steps: Mapping[str, StepOptions]
    out: str

    @classmethod
    def read(cls, location: str) -> PipelineFile:
        """Read a file, or a packaged example by its name. Raises UsageError with every problem of its form."""
        path = _path(location)
        content = load_yaml(path)
        refuse(str(path), content_problems(content))
        variables = {"package": str(Path(__file__).parents[2]), **(content.get("variables") or {})}
        steps = {
            name: {option_key(key): value for key, value in step.items()} for name, step in content["steps"].items()
        }
        return cls(path, variables, steps, content.get("out") or path.stem)

    def changed(self, changes: Mapping[str, str]) -> tuple[PipelineFile, list[str]]:
        """Set variables and `step.option`s; also return a problem for each name that does not exist."""
        variables, steps = dict(self.variables), {name: dict(step) for name, step in self.steps.items()}
        problems = []
        for key, value in changes.items():
            step, _, option = key.partition(".")
            if option and step in steps:
                steps[step][option_key(option)] = value
            elif key in variables:
                variables[key] = value
            else:
                problems.append(f"--set {key}: no such variable or step; known are {', '.join([*variables, *steps])}")
        refuse("--set", content_problems({"steps": steps}))
        return replace(self, variables=variables, steps=steps), problems


def _path(location: str) -> Path:
    """Return the path of a file, or of a packaged example. Raises UsageError for a name that is neither."""
    if Path(location).suffix in (".yaml", ".yml"):
        return Path(os.path.expanduser(location))
    examples = {example.stem: example for example in EXAMPLES.glob("*.yaml")}
    if location not in examples:
        raise UsageError(
            f"{location}: expected a file ending in .yaml or .yml, or a packaged example: {', '.join(sorted(examples))}"
        )
    return examples[location]


def substitute(where: str, text: str, values: Mapping[str, object]) -> str:
    """Replace every reference. Raises UsageError, which begins with `where`, for an unknown name."""
    for name in _REFERENCE.findall(text):
        if name not in values:
            hint = f"; pass an environment variable with --set NAME=${name}" if name in os.environ else ""
            raise UsageError(
                f"{where}: ${{{name}}}: no such variable, and no step of this name writes anything;"
                f" known are {', '.join(values)}{hint}"
            )
    return _REFERENCE.sub(lambda match: str(values[match[1]]), text)


def referenced_names(options: StepOptions) -> set[str]:
    """Names that the options of a step refer to."""
    return {name for value in options.values() for text in as_list(value) for name in _REFERENCE.findall(text)}


def as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def refuse(where: str, problems: list[str]) -> None:
    """Raise UsageError with all problems, if there are any."""
    if problems:
        raise UsageError(f"{where}:\n  " + "\n  ".join(problems))


def option_key(option: str) -> str:
    return option.replace("-", "_")


def content_problems(content: Any) -> list[str]:
    """Everything in a parsed file that does not have the form of a pipeline."""
    if not isinstance(content, dict) or not isinstance(content.get("steps"), dict) or not content["steps"]:
        return ["expected `steps`, a mapping of names to steps"]
    problems = [f"unknown {key!r}; expected {', '.join(SECTIONS)}" for key in content if key not in SECTIONS]
    variables = content.get("variables") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        return [*problems, "`variables`: expected a mapping of names to strings"]
    if not isinstance(content.get("out", ""), str):
        problems.append("`out`: expected a folder")
    if both := set(content["steps"]) & set(variables):
        problems.append(f"{', '.join(sorted(both))}: both a variable and a step")
    return problems + [problem for name, step in content["steps"].items() for problem in _step_problems(name, step)]


def _step_problems(name: Any, step: Any) -> list[str]:
    problems = []
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or name in RESERVED_NAMES:
        reserved = " or ".join(RESERVED_NAMES)
        problems.append(f"step {name!r}: expected a name of letters, digits, - and _, other than {reserved}")
    if not isinstance(step, dict) or not isinstance(step.get("run"), str) or step["run"] not in OUTPUT_PARAMETERS:
        return [*problems, f"step {name!r}: expected `run: COMMAND`, one of {', '.join(OUTPUT_PARAMETERS)}"]
    keys = [option_key(key) for key in step]
    problems += [f"step {name!r}: duplicate key {key!r}" for key in sorted(set(keys)) if keys.count(key) > 1]
    for key, value in step.items():
        texts = as_list(value)
        if not texts or not all(isinstance(text, str) for text in texts):
            problems.append(f"step {name!r}: {key}: expected a string or a list of strings")
    return problems
