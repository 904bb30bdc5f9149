"""Files of entries that people write: lines of text, lines of JSON, or a list in JSON.

A bad entry is refused alone, with its line; a file that is not a regular one, is too large or cannot be read is refused
as a whole. JSON null means that a field is absent.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import RefusedInput, UsageError
from shared.storage.small_files import parse_json, read_small_file

MAX_TEXT_CHARACTERS = 100_000  # some 15 000 words; more takes seconds to tokenize
MAX_KEY_CHARACTERS = 1_000
MAX_LINES_BYTES = 512 << 20  # of a file that is read line by line


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its number in the file (from 1), its location in words, and its value or why it is refused."""

    number: int
    where: str
    value: Any = None
    refusal: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of an object, without those that are null. Raises RefusedInput (`bad_entry`)."""
        if self.refusal is not None:
            raise RefusedInput("bad_entry", self.refusal)
        if not isinstance(self.value, dict):
            raise RefusedInput("bad_entry", f"expected text or an object, got {type(self.value).__name__}")
        return {name: value for name, value in self.value.items() if value is not None}


def text_entries(path: Path) -> Iterator[Entry]:
    """Yield the lines of a text file that are not blank, stripped. Raises UsageError if it cannot be read."""
    for number, line in _lines(path):
        try:
            yield Entry(number, f"line {number}", line.decode().strip())
        except UnicodeDecodeError as error:
            yield Entry(number, f"line {number}", refusal=f"not UTF-8: {error}")


def json_line_entries(path: Path) -> Iterator[Entry]:
    """Yield the JSON of each line that is not blank. Raises UsageError if the file cannot be read."""
    for number, line in _lines(path):
        where = f"line {number}"
        try:
            yield Entry(number, where, parse_json(line, where))
        except UsageError as error:
            yield Entry(number, where, refusal=str(error).removeprefix(f"{where}: "))


def json_list_entries(path: Path) -> Iterator[Entry]:
    """Yield the elements of a JSON file that is a list. Raises UsageError if it cannot be read or is something else."""
    values = parse_json(read_small_file(path), str(path))
    if not isinstance(values, list):
        raise UsageError(f"{path}: expected a list, got {type(values).__name__}")
    for number, value in enumerate(values, 1):
        yield Entry(number, f"entry {number}", value)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank with their numbers; separators such as U+2028 are part of a line."""
    content = read_small_file(path, MAX_LINES_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError as error:
            raise UsageError(f"{path}: not UTF-16: {error}") from error
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def parse_key(value: object) -> str:
    """Return a key as text; an integer is accepted too. Raises RefusedInput (`bad_entry`) for anything else."""
    if not isinstance(value, (str, int)) or isinstance(value, bool) or value == "":
        raise RefusedInput("bad_entry", f"`key`: expected text, got {value!r:.100}")
    key = parse_text("key", str(value))
    if len(key) > MAX_KEY_CHARACTERS or "\0" in key:
        raise RefusedInput(
            "bad_entry", f"`key`: expected at most {MAX_KEY_CHARACTERS} characters, none of them null: {key!r:.100}"
        )
    return key


def parse_text(name: str, value: object) -> str:
    """Return text that UTF-8 can encode; JSON can contain unpaired surrogates, which it cannot.

    Raises RefusedInput (`bad_entry`, `too_long`).
    """
    if not isinstance(value, str):
        raise RefusedInput("bad_entry", f"`{name}`: expected text, got {value!r:.100}")
    if len(value) > MAX_TEXT_CHARACTERS:
        raise RefusedInput("too_long", f"`{name}`: {len(value)} characters, expected at most {MAX_TEXT_CHARACTERS}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RefusedInput("bad_entry", f"`{name}`: not valid Unicode: {error}") from None
    return value


def parse_keys(name: str, value: object) -> tuple[str, ...]:
    """Return a list of keys. Raises RefusedInput (`bad_entry`) for anything else."""
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise RefusedInput("bad_entry", f"`{name}`: expected a list of keys, got {value!r:.100}")
    return tuple(parse_text(name, key) for key in value)
