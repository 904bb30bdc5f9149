"""From parsed parameters to an options object."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import click
import pytest
from click.testing import CliRunner

from lm_stage.inference.options import SamplingOptions
from lm_stage.text.prompting import EMU3, PROMPTINGS
from lm_stage.understand.options import UnderstandOptions
from pipelines.cli import main
from pipelines.commands.build import OptionsCommand, fill, options_command, parameter_defaults
from shared.errors import UsageError
from shared.jobs.engines import EngineOptions
from vq_stage.encode.options import EncodeOptions
from vq_stage.video.clips import ClipSampling


@dataclass(frozen=True)
class Drawing:
    color: str = "red"
    width: int | None = None


@dataclass(frozen=True)
class PaintOptions:
    target: str
    coats: int = 2
    brushes: tuple[str, ...] = ("round",)
    can_bytes: int = 3 << 20
    drawing: Drawing = field(default_factory=lambda: Drawing(color="blue"))

    def __post_init__(self) -> None:
        if self.coats < 1:
            raise UsageError(f"--coats {self.coats}: expected at least 1")


def paint(*arguments: str) -> tuple[str, list[Any]]:
    """Run a command that is built from PaintOptions; return what it prints and what its function is given."""
    received: list[Any] = []

    @options_command(f"{__name__}:PaintOptions")
    @click.argument("target")
    @click.option("--coats", type=int)
    @click.option("--brush", "brushes", multiple=True)
    @click.option("--can-mb", type=int)
    @click.option("--color")
    @click.option("--width", type=int, show_default="that of the brush")
    @click.option("--fast", is_flag=True)
    def command(options: PaintOptions, fast: bool) -> None:
        received.extend([options, fast])

    result = CliRunner().invoke(command, [*arguments], catch_exceptions=False, show_default=True)
    return result.output, received


def test_parameters_fill_the_dataclass_and_those_nested_in_it() -> None:
    _, received = paint("wall", "--coats", "3", "--can-mb", "5", "--color", "green", "--brush", "flat", "--fast")
    assert received == [PaintOptions("wall", 3, ("flat",), 5 << 20, Drawing("green")), True]


def test_the_dataclass_supplies_every_default_and_help_shows_it() -> None:
    assert paint("wall")[1] == [PaintOptions("wall"), False]
    shown = paint("--help")[0]
    assert all(text in shown for text in ("default: 2]", "round]", "3]", "blue]", "(that of the brush)]"))


def test_values_that_the_dataclass_refuses_are_refused_while_parsing() -> None:
    with pytest.raises(UsageError, match="--coats 0: expected at least 1"):
        paint("wall", "--coats", "0")


def test_a_field_without_a_default_may_be_none() -> None:
    assert fill(PaintOptions, {"target": None}).target is None
    with pytest.raises(TypeError, match="target"):
        fill(PaintOptions, {})


COMMANDS = [command for command in main.commands.values() if isinstance(command, OptionsCommand)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_no_default_is_stated_twice(command: OptionsCommand) -> None:
    """Options that fill a field have no default of their own, and no other option shares a field's name by accident."""
    import pkgutil

    options_class = pkgutil.resolve_name(command.options_class)
    known = parameter_defaults(options_class)
    own = {param.name for param in command.params if param.to_info_dict().get("default") not in (None, False, ())}
    assert not own & set(known)
    assert {param.name for param in command.params} & set(known)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_the_command_line_changes_no_default(command: OptionsCommand) -> None:
    """Without options, a command gets what the dataclass gives if only the required fields are set."""
    needs = {"train-vq": ["--config", "c.json"]}.get(str(command.name), [])
    arguments = ["x" for param in command.params if isinstance(param, click.Argument) and param.required]
    options = command.make_context(command.name, [*needs, *arguments]).params["options"]
    required = [field.name for field in fields(options) if field.default is field.default_factory is MISSING]
    required += ["config"] if needs else []
    assert options == type(options)(**{name: getattr(options, name) for name in required})


def test_a_default_that_a_class_derives_is_derived_again() -> None:
    """Without --stride, clips are sampled at 8 frames per second; with it, there is no rate."""
    assert fill(EncodeOptions, {"source": "", "dataset": "", "stride": 2}).sampling == ClipSampling(stride=2)
    assert fill(EncodeOptions, {"source": "", "dataset": ""}).sampling == ClipSampling(fps=8.0)


def understood(*arguments: str) -> UnderstandOptions:
    command = main.commands["understand"]
    options: UnderstandOptions = command.make_context("understand", [*arguments, "x", "y"]).params["options"]
    return options


def test_workers_without_an_engine_are_processes_of_this_machine() -> None:
    assert understood("--workers", "2").engine == EngineOptions("local", 2)
    assert understood().engine == EngineOptions("here", 1)


def test_answers_are_greedy_unless_sampling_is_asked_for() -> None:
    assert understood().sampling.greedy
    assert understood("--top-k", "5").sampling == SamplingOptions(top_k=5, greedy=True)
    assert understood("--sample", "--top-k", "5").sampling == SamplingOptions(top_k=5)


def test_emu3_prompting_fills_in_what_is_not_given() -> None:
    command = main.commands["generate"]
    options = command.make_context("generate", ["--prompting", "emu3", "--suffix", "", "x", "y"]).params["options"]
    settings = options.prompt_settings(PROMPTINGS[options.prompting])
    assert (settings.suffix, settings.negative_prompt) == ("", EMU3.negative_prompt)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (("generate", "p.txt", "out"), "--suffix"),
        (("generate", "p.txt", "out"), "--negative-prompt"),
        (("understand", "codes", "a.jsonl"), "--question"),
        (("sft", "codes", "run"), "--freeze"),
        (("encode", "photos", "codes"), "--retry-quarantined"),
    ],
)
def test_text_that_is_not_utf_8_is_refused(command: tuple[str, ...], flag: str) -> None:
    done = CliRunner().invoke(main, [*command, flag, "a\udcff"])
    assert (done.exit_code, done.exception.__class__) == (2, SystemExit)
    assert f"{flag}: expected text in UTF-8, got 'a\\udcff'" in done.output
