"""The page of all commands and options."""

from __future__ import annotations

from pathlib import Path

from pipelines.cli import main
from pipelines.reference import UPDATE_COMMAND, options_page

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(main), f"out of date; run: {UPDATE_COMMAND}"


def test_every_command_and_option_is_on_the_page() -> None:
    page = options_page(main)
    for command in main.commands.values():
        section = page.split(f"## emu3 {command.name}\n", 1)[1].split("\n## ", 1)[0]
        assert all(f"`{name}`" in section for param in command.params for name in param.opts if name.startswith("-"))


def test_defaults_are_shown_and_no_path_of_this_machine() -> None:
    page = options_page(main)
    assert "| `--unit-rows` `INTEGER` | 256 |" in page
    assert str(Path.cwd()) not in page
    assert "site-packages" not in page
