"""The command line of a step: which commands can be steps, and how their options are spelled and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from shared.errors import UsageError

# The parameter that a command writes to; None for a command that writes nothing.
OUTPUT_PARAMETERS: dict[str, str | None] = {
    "encode": "dataset",
    "sft": "run",
    "generate": "dataset",
    "understand": "answers",
    "decode": "out",
    "init-lm": "out",
    "train-vq": "out",
    "verify": None,
    "inspect": "sheet",
}
OUTPUT_SUFFIXES = {"understand": ".jsonl", "inspect": ".png"}

# Parameters that name files or folders which must exist before the step starts.
INPUT_PARAMETERS = (
    "source",
    "dataset",
    "datasets",
    "held_out",
    "model",
    "prompts",
    "images",
    "questions",
    "vision_tokenizer",
    "layout",
    "config",
    "init_from",
    "sample_prompts",
)

# Options that affect how a step is executed but not its result: a change of them does not make a step stale.
EXECUTION_OPTIONS = frozenset(
    {
        "engine",
        "workers",
        "worker_timeout",
        "rank",
        "world_size",
        "ray_address",
        "reader_threads",
        "read_timeout",
        "skip_damaged",
        "max_bad_steps",
        "save_every",
        "keep",
        "evaluate_every",
        "zero",
        "recompute",
        "allow_numerics_change",
        "max_refused_in_a_row",
        "retry_quarantined",
        "update_texts",
    }
)


def output_path(folder: Path, step_name: str, command: str) -> Path | None:
    """Where a step writes: `folder/NAME`, with a suffix if its command writes a single file."""
    if OUTPUT_PARAMETERS[command] is None:
        return None
    return folder / f"{step_name}{OUTPUT_SUFFIXES.get(command, '')}"


def command_line(command: click.Command, values: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Spell the values of a step as a command line, without the program's name.

    Raises UsageError for an option that the command does not have.
    """
    parameters = {parameter_key(parameter): parameter for parameter in command.params}
    if unknown := sorted(set(values) - set(parameters)):
        raise UsageError(f"unknown {', '.join(unknown)}; {command.name} accepts {', '.join(parameters)}")
    options: list[str] = []
    positional: list[str] = []
    for key, parameter in parameters.items():
        if key in values and isinstance(parameter, click.Option):
            options += _option_words(parameter, values[key])
        elif key in values:
            positional += values[key]
    return (command.name or "", *options, "--", *positional)


def parameter_key(parameter: click.Parameter) -> str:
    """The name of a parameter as it is written in a pipeline file, with _ for -."""
    return max(parameter.opts, key=len).removeprefix("--").replace("-", "_")


def _option_words(option: click.Option, texts: list[str]) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag] if click.BOOL.convert(texts[-1], option, None) else option.secondary_opts[:1]
    return [word for text in texts for word in (flag, text)]
