"""Code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL_ENDS = frozenset({"|", ">", ">>", "<", "&&", ";", "&"})


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page: its language (empty if none is given) and its text."""

    page: Path
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """A command of a `console` block with the output that the page shows for it."""

    command: list[str]
    output: list[str]


def pages() -> list[Path]:
    """Return every Markdown page of the repository that users read."""
    folders = [REPOSITORY, REPOSITORY / "docs", *REPOSITORY.glob("*/embedded/*")]
    return sorted(path for folder in folders for path in folder.glob("*.md"))


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, match[1], match[2]) for match in _FENCE.finditer(text)]


def emu3_commands(block: Block) -> list[list[str]]:
    """Return the arguments of every `emu3` command in a block of shell lines, without redirections and pipes."""
    lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if re.search(r"\bemu3 ", line)]
    return [_arguments(one) for one in words if "emu3" in one]


def _arguments(words: list[str]) -> list[str]:
    arguments = words[words.index("emu3") + 1 :]
    end = next((index for index, word in enumerate(arguments) if word in _SHELL_ENDS), len(arguments))
    return arguments[:end]


def examples(block: Block) -> list[Example]:
    """Return the commands of a `console` block; lines after a `$ ` line are its output."""
    found: list[Example] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append(Example(shlex.split(line[2:], comments=True), []))
        elif line and found:
            found[-1].output.append(line)
    return found


def without_numbers(line: str) -> str:
    """Replace every number and digest in a line of output, because they differ between runs and machines."""
    return re.sub(r"\b[0-9a-f]{12,64}\b|\d+(\.\d+)?", "#", line).rstrip()
