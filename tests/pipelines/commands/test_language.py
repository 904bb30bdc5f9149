"""Choices of the language commands, the help of mixtures, and `emu3 convert-lm` in both directions."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lm_stage.data.options import ENTRY_FORM
from lm_stage.model.weights import model_fingerprint
from lm_stage.text.prompting import PROMPTINGS
from pipelines.cli import main


def choices(command: str, flag: str) -> tuple[str, ...]:
    [option] = [one for one in main.commands[command].params if flag in one.opts]
    assert isinstance(option.type, click.Choice)
    return tuple(option.type.choices)


@pytest.mark.parametrize(
    ("command", "flag", "expected"),
    [
        ("generate", "--task", ("image", "chat", "t2i", "x2i", "story", "howto", "explore", "vla")),
        ("understand", "--template", ("chat", "stage1")),
        ("generate", "--prompting", ("auto", "plain", "emu3", "emu35")),
        ("init-lm", "--prompting", ("emu3", "emu35")),
        ("plan", "--prompting", ("emu3", "emu35")),
    ],
)
def test_choices(command: str, flag: str, expected: tuple[str, ...]) -> None:
    assert choices(command, flag) == expected


def test_flags_accept_all_that_a_prompting_has() -> None:
    for prompting in PROMPTINGS.values():
        assert prompting.tasks.keys() <= set(choices("generate", "--task"))
        assert prompting.question_templates.keys() <= set(choices("understand", "--template"))


@pytest.mark.parametrize("command", ["sft", "export"])
def test_the_help_gives_the_form_of_a_mixture(command: str) -> None:
    assert ENTRY_FORM in (main.commands[command].help or "")
    assert "FILE.jsonl,task=document,images=DATASET" in (main.commands[command].help or "")


def test_a_bad_choice_is_answered_with_the_names() -> None:
    result = CliRunner().invoke(main, ["generate", "prompts.txt", "out", "--task", "novel"])
    assert result.exit_code == 2
    assert "'novel' is not one of 'image', 'chat', 't2i'" in result.output


def test_weights_are_converted_there_and_back(small_lm: Path, tmp_path: Path) -> None:
    weights, back = tmp_path / "weights", tmp_path / "back"
    there = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(weights)])
    assert there.exit_code == 0
    assert f"weights for MindFormers written to {weights}" in there.output
    result = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(back), "--weights", str(weights)])
    assert result.exit_code == 0
    assert f"model written to {back}" in result.output
    assert model_fingerprint(back) == model_fingerprint(small_lm)


def test_a_folder_that_is_in_use_is_refused(small_lm: Path) -> None:
    result = CliRunner().invoke(main, ["convert-lm", str(small_lm), str(small_lm)])
    assert result.exit_code == 2
    assert "expected a local directory that is empty" in result.output
