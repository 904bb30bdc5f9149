"""Every command, link and Python snippet of the documentation is real; the README's commands print what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pipelines.cli import main
from shared.dataset.quarantine_reasons import QUARANTINE_REASONS
from tests.support.command import REPOSITORY, emu3_here, environment
from tests.support.documentation import Block, Example, blocks, emu3_commands, examples, pages, without_numbers
from tests.support.stand_in_training import stand_in_decoder, stand_in_training_step
from tests.support.step_by_step import stand_in_tokenizer

README = REPOSITORY / "README.md"
SHELL = ("", "sh", "bash", "console")


def identifier(value: object) -> str:
    return str(value.relative_to(REPOSITORY)) if isinstance(value, Path) else ""


@pytest.mark.parametrize("page", pages(), ids=identifier)
def test_commands_are_accepted_by_the_command_line(page: Path) -> None:
    for block in blocks(page):
        if block.language in SHELL:
            for arguments in emu3_commands(block):
                parse(arguments)


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it."""
    if arguments and arguments[0].startswith("-"):
        return
    command = main.commands[arguments[0]]
    try:
        command.make_context(arguments[0], list(arguments[1:]))
    except click.exceptions.Exit:
        pass
    except click.ClickException as error:
        raise AssertionError(f"emu3 {' '.join(arguments)}: {error.format_message()}") from error


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs").glob("*.md"))
    assert not [name for name in main.commands if f"emu3 {name}" not in text]


@pytest.mark.parametrize("page", pages(), ids=identifier)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target} does not exist"
        if heading:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{page.name}: {target}: no such heading"


@pytest.mark.parametrize("page", pages(), ids=identifier)
def test_python_snippets_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is one from which the README's paths lead to the demo's pictures and the embedded models."""
    for package in ("pipelines", "vq_stage"):
        (tmp_path / package).symlink_to(REPOSITORY / package)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
def test_readme_commands_and_snippets_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with stand-ins for the networks: compiling these takes four minutes, and they have their own tests."""
    stand_in_tokenizer(monkeypatch)
    stand_in_decoder(monkeypatch)
    stand_in_training_step(monkeypatch)
    for block in readme_blocks():
        if block.language == "python":
            exec(compile(block.text, str(README), "exec"), {})
        for example in console_examples(block):
            assert_printed(example, emu3_here(*example.command[1:]))


@pytest.mark.slow  # the test above runs the same commands without networks
@pytest.mark.usefixtures("folder")
def test_readme_commands_and_snippets_run_with_the_networks() -> None:
    for block in readme_blocks():
        if block.language == "python":
            run([sys.executable, "-c", block.text])
        for example in console_examples(block):
            assert_printed(example, run([sys.executable, "-m", "pipelines.cli", *example.command[1:]]))


def readme_blocks() -> list[Block]:
    found = [block for block in blocks(README) if block.language in ("console", "python")]
    assert {block.language for block in found} == {"console", "python"}
    return found


def console_examples(block: Block) -> list[Example]:
    found = examples(block) if block.language == "console" else []
    others = [example.command for example in found if example.command[0] != "emu3"]
    assert not others, "a console block of the README holds emu3 commands only"
    return found


def assert_printed(example: Example, text: str) -> None:
    printed = [without_numbers(line) for line in text.splitlines()]
    missing = [line for line in example.output if without_numbers(line) not in printed]
    assert not missing, f"{' '.join(example.command)} did not print {missing}, but:\n{text}"


def run(command: list[str]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_every_quarantine_reason_is_documented() -> None:
    page = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [f"| `{reason}` | {explanation} |" for reason, explanation in QUARANTINE_REASONS.items()]
    assert not [row for row in rows if row not in page]
