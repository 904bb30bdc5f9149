"""One step of a pipeline as a command line, checked by the command itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from shared.errors import UsageError

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
MANNER = {"engine", "workers", "rank", "world_size", "ray_address", "reader_threads", "skip_damaged", "max_bad_steps"}
MANNER |= {"save_every", "keep", "evaluate_every", "zero", "recompute", "allow_numerics_change"}
SUFFIXES = {"understand": ".jsonl", "inspect": ".png"}
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


class Input(NamedTuple):
    """A place that a step reads, and the option by which it is given."""

    option: str
    place: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its command line without the program's name, where it writes, and the steps it needs.

    `decisive` are the arguments that decide what comes of it.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    output: Path | None
    inputs: tuple[Input, ...]
    needs: tuple[str, ...]
    decisive: tuple[str, ...] = ()

    def place(self, option: str) -> str | None:
        """The first that is given by an option."""
        return next((one.place for one in self.inputs if one.option == option), None)


def build_step(
    name: str,
    step: Mapping[str, Any],
    variables: Mapping[str, Any],
    outputs: Mapping[str, Path | None],
    commands: click.Group,
) -> Step:
    """Builds the command line and lets the command itself check its options."""
    places = {**variables, **{other: path for other, path in outputs.items() if path is not None}}
    values = {key: value for key, value in step.items() if key != "run"}
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
        filled[key] = [fill(f"step {name}", one, places) for one in _listed(value)]
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
        command.make_context(step["run"], [*arguments, "--", *positional])  # checks the values too
    except click.ClickException as error:
        raise UsageError(f"step {name}: {error.format_message()}") from error
    except UsageError as error:
        raise UsageError(f"step {name}: {error}") from error
    inputs = tuple(
        Input(key, one.split(",")[0] if key in ("datasets", "held_out") else one)
        for key in INPUTS
        if key in filled and key != written
        for one in filled[key]
    )
    makers = {maker for one in inputs if (maker := maker_of(one.place, outputs)) and maker != name}
    return Step(
        name,
        step["run"],
        (step["run"], *arguments, "--", *positional),
        output,
        inputs,
        tuple(sorted((references(step) & set(outputs)) | makers)),
        (step["run"], *decisive, "--", *positional),
    )


def output_of(folder: Path, name: str, step: Mapping[str, Any]) -> Path | None:
    return folder / (name + SUFFIXES.get(step["run"], "")) if OUTPUTS[step["run"]] else None


def maker_of(text: str, outputs: Mapping[str, Path | None]) -> str | None:
    """The step that writes a place, if one does."""
    if "://" in text or text == "-":
        return None
    place = Path(text).resolve()
    return next((name for name, path in outputs.items() if path and place.is_relative_to(path.resolve())), None)


def references(step: Mapping[str, Any]) -> set[str]:
    return {name for value in step.values() for one in _listed(value) for name in _REFERENCE.findall(str(one))}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _spelled(parameter: click.Parameter) -> str:
    """An option's name as on the command line, with _ for -."""
    return max(parameter.opts, key=len).removeprefix("--").replace("-", "_")


def _option(parameter: click.Option, texts: list[str]) -> list[str]:
    flag = max(parameter.opts, key=len)
    if parameter.is_flag:
        return [flag] if click.BOOL.convert(texts[-1], parameter, None) else parameter.secondary_opts[:1]
    return [word for text in texts for word in (flag, text)]


def fill(where: str, text: str, places: Mapping[str, Any]) -> str:
    if missing := [name for name in _REFERENCE.findall(text) if name not in places]:
        raise UsageError(f"{where}: {', '.join(missing)}: no such step or variable; known are {', '.join(places)}")
    return _REFERENCE.sub(lambda match: str(places[match[1]]), text)
