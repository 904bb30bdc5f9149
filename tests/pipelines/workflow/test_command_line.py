"""The command line of a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.workflow.command_line import (
    EXECUTION_OPTIONS,
    INPUT_PARAMETERS,
    OUTPUT_PARAMETERS,
    command_line,
    output_path,
    parameter_key,
)
from shared.errors import UsageError

ENCODE = {"source": ["photos"], "dataset": ["codes"]}


def test_options_are_spelled_as_flags_and_repeated_for_lists() -> None:
    values = {**ENCODE, "retry_quarantined": ["empty", "truncated"], "allow_numerics_change": ["yes"]}
    assert command_line(main.commands["encode"], values) == (
        "encode",
        "--allow-numerics-change",
        "--retry-quarantined",
        "empty",
        "--retry-quarantined",
        "truncated",
        "--",
        "photos",
        "codes",
    )


def test_a_flag_that_is_off_is_left_out_or_spelled_as_its_opposite() -> None:
    values = {"dataset": ["codes"], "answers": ["a.jsonl"], "greedy": ["false"]}
    assert "--sample" in command_line(main.commands["understand"], values)
    assert "--allow-numerics-change" not in (
        command_line(main.commands["encode"], {**ENCODE, "allow_numerics_change": ["no"]})
    )


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown size; encode accepts source, dataset, "):
        command_line(main.commands["encode"], {**ENCODE, "size": ["3"]})


def test_outputs_are_named_after_the_step() -> None:
    assert output_path(Path("out"), "codes", "encode") == Path("out/codes")
    assert output_path(Path("out"), "answers", "understand") == Path("out/answers.jsonl")
    assert output_path(Path("out"), "checked", "verify") is None


def test_the_tables_name_parameters_that_exist() -> None:
    known = {
        command: {parameter_key(param) for param in main.commands[command].params} for command in OUTPUT_PARAMETERS
    }
    assert all(parameter is None or parameter in known[command] for command, parameter in OUTPUT_PARAMETERS.items())
    every = set().union(*known.values())
    assert every >= EXECUTION_OPTIONS
    assert every >= set(INPUT_PARAMETERS)
