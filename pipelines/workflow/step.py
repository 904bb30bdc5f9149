"""One step of a pipeline: its command line, its inputs, its output, and the steps it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from pipelines.workflow.command_line import EXECUTION_OPTIONS, INPUT_PARAMETERS, OUTPUT_PARAMETERS, command_line
from pipelines.workflow.file import StepOptions, as_list, referenced_names, substitute
from shared.errors import UsageError
from vq_stage.sources.media_types import suffix_of
from vq_stage.sources.open_source import LIST_SUFFIXES


@dataclass(frozen=True, slots=True)
class Input:
    """A path or URL that a step reads, and the option that gives it.

    `media_root` is the folder of the relative paths in a list of images and videos on disk, None for other inputs.
    """

    option: str
    location: str
    media_root: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline.

    `arguments` is its command line without the program's name, `result_arguments` the part of it that determines the
    result. `needs` names the steps whose outputs it reads. `options` is the options object of its command, if any.
    """

    name: str
    command: str
    arguments: tuple[str, ...]
    output: Path | None
    inputs: tuple[Input, ...]
    needs: tuple[str, ...]
    result_arguments: tuple[str, ...] = ()
    options: object = None

    def location(self, option: str) -> str | None:
        """The first path or URL given by an option, None if there is none."""
        return next((one.location for one in self.inputs if one.option == option), None)


def build_step(
    name: str,
    described: StepOptions,
    variables: Mapping[str, str],
    outputs: Mapping[str, Path | None],
    commands: click.Group,
) -> Step:
    """Build a step and let its command check the options.

    `variables` are the values of the variables, `outputs` the path that each step writes to.
    Raises UsageError that names the step.
    """
    command = commands.commands[str(described["run"])]
    try:
        values = _values(name, described, variables, outputs)
        arguments = command_line(command, values)
        options = command.make_context(command.name, list(arguments[1:])).params.get("options")
    except click.ClickException as error:
        raise UsageError(f"step {name}: {error.format_message()}") from error
    except (UsageError, OSError) as error:  # OSError: a path that is too long
        raise UsageError(f"step {name}: {error}") from error
    decisive = {key: texts for key, texts in values.items() if key not in EXECUTION_OPTIONS}
    inputs = _inputs(values, OUTPUT_PARAMETERS[arguments[0]])
    producers = {producer for one in inputs if (producer := producer_of(one.location, outputs))}
    needs = (referenced_names(described) & set(outputs)) | (producers - {name})
    return Step(
        name,
        arguments[0],
        arguments,
        outputs[name],
        inputs,
        tuple(sorted(needs)),
        command_line(command, decisive),
        options,
    )


def _values(
    name: str, described: StepOptions, variables: Mapping[str, str], outputs: Mapping[str, Path | None]
) -> dict[str, list[str]]:
    """The options of a step with references replaced, and its output added."""
    known = {**variables, **{step: path for step, path in outputs.items() if path is not None}}
    values = {
        key: [_expanded(key, substitute(key, text, known)) for text in as_list(value)]
        for key, value in described.items()
        if key != "run"
    }
    written = OUTPUT_PARAMETERS[str(described["run"])]
    if written is not None:
        if written in values:
            raise UsageError(f"{written}: the step writes to {outputs[name]}; remove it, or give --out")
        values[written] = [str(outputs[name])]
    return values


def _expanded(key: str, text: str) -> str:
    """Replace a leading `~` of a path by the home directory, as a shell does."""
    return os.path.expanduser(text) if key in (*INPUT_PARAMETERS, "image_root") else text


def producer_of(location: str, outputs: Mapping[str, Path | None]) -> str | None:
    """Return the step that writes a location; None if none does."""
    if "://" in location or location == "-":
        return None
    path = resolved(location)
    return next((name for name, output in outputs.items() if output and path.is_relative_to(resolved(output))), None)


def resolved(path: str | Path) -> Path:
    """Return the absolute path without links. Unlike `Path.resolve`, this accepts a link to itself."""
    return Path(os.path.realpath(path))


def _media_root(option: str, values: Mapping[str, list[str]]) -> str | None:
    if option != "source":
        return None
    location = values[option][-1]
    if "://" in location or suffix_of(location) not in LIST_SUFFIXES:
        return None
    return values.get("image_root", [os.path.dirname(location)])[-1]


def _inputs(values: Mapping[str, list[str]], written: str | None) -> tuple[Input, ...]:
    """What a step reads."""
    return tuple(
        Input(kind, location, _media_root(kind, values))
        for option in INPUT_PARAMETERS
        if option in values and option != written
        for text in values[option]
        for kind, location in _locations(option, text)
    )


def _locations(option: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield what a value names. A dataset of `sft` is given as PATH[,task=…][,weight=…][,images=DATASET]."""
    if option not in ("datasets", "held_out"):
        yield option, text
        return
    path, *settings = text.split(",")
    yield option, path
    yield from (("images", one.removeprefix("images=")) for one in settings if one.startswith("images="))
