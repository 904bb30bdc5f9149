"""A pipeline file: named steps, each a command of this program, joined by `${step}` references.

    variables: {pictures: photos/}
    steps:
      codes:  {run: encode, source: "${pictures}", resize: area, area: 4096}
      tuned:  {run: sft, datasets: ["${codes}"], model: embedded}
      images: {run: generate, prompts: prompts.txt, model: "${tuned}/model"}

Commands, options, references, places and tokenizers are checked before a step starts; whether a model has room for what
it is given, the step finds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import click
import yaml

from shared.errors import UsageError
from shared.storage import as_path
from vq_stage.sources import expanded

EXAMPLES = Path(__file__).parent / "examples"
# Command -> the parameter it writes to, and those that must exist before it starts.
OUTPUTS: dict[str, str | None] = {
    "encode": "dataset",
    "sft": "run",
    "generate": "dataset",
    "understand": "answers",
    "decode": "out",
}
OUTPUTS |= {"init-lm": "out", "train-vq": "out", "verify": None, "inspect": "sheet"}
INPUTS = ["source", "dataset", "datasets", "held_out", "model", "prompts", "images", "questions", "vision_tokenizer"]
INPUTS += ["layout", "config", "init_from", "sample_prompts"]
# Options that decide how a step is done, not what comes of it: they may change while it is under way, or after it.
MANNER = {"engine", "workers", "rank", "world_size", "ray_address", "readers", "skip_damaged", "max_bad_steps"}
MANNER |= {"save_every", "keep", "evaluate_every", "zero", "recompute", "allow_numerics_change"}
SUFFIXES = {"understand": ".jsonl", "inspect": ".png"}
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its command line without the program's name, where it writes, and the steps it needs.

    `decisive` are the arguments that decide what comes of it, `inputs` the places it reads.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    output: Path | None
    inputs: tuple[str, ...]
    needs: tuple[str, ...]
    decisive: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Steps in an order in which they can run; outputs lie below `out`."""

    name: str
    out: Path
    steps: tuple[Step, ...]


def load_pipeline(location: str, changes: Mapping[str, str], out: str | None, commands: click.Group) -> Pipeline:
    """Reads a file, or a packaged example by its name, and checks it whole.

    `changes` are `variable=value` or `step.option=value`. Raises UsageError with every problem found.
    """
    path = Path(location) if Path(location).suffix in (".yaml", ".yml") else EXAMPLES / f"{location}.yaml"
    try:
        described = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # 16:9 is a text, no number
    except (OSError, ValueError, yaml.YAMLError) as error:
        packaged = ", ".join(sorted(example.stem for example in EXAMPLES.glob("*.yaml")))
        raise UsageError(f"{path}: cannot be read as a pipeline: {error}; packaged are {packaged}") from error
    if problems := _shape_problems(described):
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    variables = {"package": str(Path(__file__).parents[1]), **(described.get("variables") or {})}
    steps = {name: dict(step) for name, step in described["steps"].items()}
    problems = _apply_changes(changes, variables, steps)
    if unknown := _shape_problems({"steps": steps}):
        raise UsageError("--set:\n  " + "\n  ".join(unknown))
    for name, value in variables.items():
        variables[name] = _fill(f"variable {name}", str(value), variables)
    folder = Path(out or described.get("out") or path.stem)
    if "://" in str(folder):
        raise UsageError(f"--out {folder}: expected a folder of this machine; steps may read from URLs")
    outputs = {name: _output(folder, name, step) for name, step in steps.items()}
    built: dict[str, Step] = {}
    for name, step in steps.items():
        try:
            built[name] = _step(name, step, variables, outputs, commands)
        except UsageError as error:
            problems.append(str(error))
    needs = {name: set(built[name].needs) if name in built else _references(step) for name, step in steps.items()}
    needs = {name: needed & set(steps) for name, needed in needs.items()}
    try:
        TopologicalSorter(needs).prepare()
        names = _in_file_order(needs)
    except CycleError as error:
        problems.append(f"steps need each other in a circle: {' → '.join(error.args[1])}")
        names = []
    problems += [problem for name in names if name in built for problem in _place_problems(built[name], outputs)]
    problems += _codec_problems([built[name] for name in names if name in built])
    if problems:
        raise UsageError(f"{path}:\n  " + "\n  ".join(problems))
    return Pipeline(path.stem, folder, tuple(built[name] for name in names))


def _shape_problems(described: Any) -> list[str]:
    if not isinstance(described, dict) or not isinstance(described.get("steps"), dict) or not described["steps"]:
        return ["expected `steps`, a mapping of names to steps"]
    problems = [
        f"unknown {key!r}; known are steps, variables, out" for key in set(described) - {"steps", "variables", "out"}
    ]
    if not isinstance(described.get("variables") or {}, dict):
        problems.append("`variables`: expected a mapping")
    if both := set(described["steps"]) & set(described.get("variables") or {}):
        problems.append(f"{', '.join(sorted(both))}: a variable and a step of one name")
    for name, step in described["steps"].items():
        if not isinstance(step, dict) or step.get("run") not in OUTPUTS:
            problems.append(f"step {name!r}: expected `run: COMMAND`, one of {', '.join(OUTPUTS)}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or name == "package":
            problems.append(f"step {name!r}: expected a name of letters, digits, - and _")
    return problems


def _apply_changes(
    changes: Mapping[str, str], variables: dict[str, Any], steps: dict[str, dict[str, Any]]
) -> list[str]:
    problems = []
    for key, value in changes.items():
        step, _, option = key.partition(".")
        if option and step in steps:
            steps[step][option] = value
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


def _codec_problems(steps: list[Step]) -> list[str]:
    """Codes of one vision tokenizer that would be decoded, or trained on, with those of another."""
    problems: list[str] = []
    codecs: dict[str, str] = {}
    for step in steps:
        found = {codecs[name] for name in step.needs if name in codecs}
        own = _vision_tokenizer(step)
        if own is not None:
            found |= {own}
        if len(found) > 1:
            problems.append(f"step {step.name}: two vision tokenizers come together: {', '.join(sorted(found))}")
        if found:
            codecs[step.name] = min(found)
    return problems


def _vision_tokenizer(step: Step) -> str | None:
    """The one given to a step, or the embedded one where a step takes that by default."""
    if "--vision-tokenizer" in step.arguments:
        return str(Path(step.arguments[step.arguments.index("--vision-tokenizer") + 1]))
    return "the embedded emu3-tiny" if step.command in ("encode", "decode", "inspect") else None


def _output(folder: Path, name: str, step: Mapping[str, Any]) -> Path | None:
    return folder / (name + SUFFIXES.get(step["run"], "")) if OUTPUTS[step["run"]] else None


def _references(step: Mapping[str, Any]) -> set[str]:
    return {name for value in step.values() for one in _listed(value) for name in _REFERENCE.findall(str(one))}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _step(
    name: str,
    step: Mapping[str, Any],
    variables: Mapping[str, Any],
    outputs: Mapping[str, Path | None],
    commands: click.Group,
) -> Step:
    """Builds the command line and lets the command itself check its options."""
    places = {**variables, **{other: path for other, path in outputs.items() if path is not None}}
    values = {key.replace("-", "_"): value for key, value in step.items() if key != "run"}
    command = commands.commands[step["run"]]
    output, written = outputs[name], OUTPUTS[step["run"]]
    if written in values:
        raise UsageError(f"step {name}: {written}: it writes to {output}; leave that out, or give --out")
    if written is not None:
        values[written] = str(output)
    known = {_spelled(parameter): parameter for parameter in command.params}
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(f"step {name}: unknown {', '.join(unknown)}; {step['run']} knows {', '.join(known)}")
    filled: dict[str, list[str]] = {}
    for key, value in values.items():
        filled[key] = [_fill(f"step {name}", one, places) for one in _listed(value)]
    options: dict[str, list[str]] = {}
    try:
        for key, parameter in known.items():
            if key in filled and isinstance(parameter, click.Option):
                options[key] = _option(parameter, filled[key])
        arguments = [word for words in options.values() for word in words]
        decisive = [word for key, words in options.items() if key not in MANNER for word in words]
        positional = [
            one for key, option in known.items() if isinstance(option, click.Argument) for one in filled.get(key, [])
        ]
        command.make_context(step["run"], [*arguments, "--", *positional])
    except click.ClickException as error:
        raise UsageError(f"step {name}: {error.format_message()}") from error
    inputs = tuple(
        one.split(",")[0] if key in ("datasets", "held_out") else one
        for key in INPUTS
        if key in filled and key != written
        for one in filled[key]
    )
    makers = {maker for one in inputs if (maker := maker_of(one, outputs)) and maker != name}
    return Step(
        name,
        step["run"],
        (step["run"], *arguments, "--", *positional),
        output,
        inputs,
        tuple(sorted((_references(step) & set(outputs)) | makers)),
        (step["run"], *decisive, "--", *positional),
    )


def maker_of(text: str, outputs: Mapping[str, Path | None]) -> str | None:
    """The step that writes a place, if one does."""
    if "://" in text or text == "-":
        return None
    place = Path(text).resolve()
    return next((name for name, path in outputs.items() if path and place.is_relative_to(path.resolve())), None)


def _spelled(parameter: click.Parameter) -> str:
    """An option's name as on the command line, with _ for -."""
    return max(parameter.opts, key=len).removeprefix("--").replace("-", "_")


def _option(parameter: click.Option, texts: list[str]) -> list[str]:
    flag = max(parameter.opts, key=len)
    if parameter.is_flag:
        return [flag] if click.BOOL.convert(texts[-1], parameter, None) else parameter.secondary_opts[:1]
    return [word for text in texts for word in (flag, text)]


def _fill(where: str, text: str, places: Mapping[str, Any]) -> str:
    if missing := [name for name in _REFERENCE.findall(text) if name not in places]:
        raise UsageError(f"{where}: {', '.join(missing)}: no such step or variable; known are {', '.join(places)}")
    return _REFERENCE.sub(lambda match: str(places[match[1]]), text)


def _place_problems(step: Step, outputs: Mapping[str, Path | None]) -> list[str]:
    """Inputs that no step makes and that are not there, and those in which the step would write."""
    problems = []
    for text in step.inputs:
        if text == "-" or maker_of(text, outputs):
            continue
        if not _is_there(text):
            problems.append(f"step {step.name}: {text}: no such file or folder, and no step makes it")
        if step.output and maker_of(str(step.output), {"": Path(text)}) is not None:
            problems.append(f"step {step.name}: {text}: holds what the steps write; give an --out outside of it")
    return problems


def _is_there(text: str) -> bool:
    try:
        return as_path(text).exists() or any(path.exists() for path in expanded(text))
    except UsageError:
        return False
