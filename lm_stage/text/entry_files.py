"""Files of entries that people write: lines of text, lines of JSON, or a list in JSON.

A bad entry is refused alone, with its line; a file that is not a regular one, is too large or cannot be read is refused
as a whole. JSON null means that a field is absent.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from shared.errors import RefusedInput, UsageError
from shared.storage.json_values import JsonValue, array_elements, line_values
from shared.storage.small_files import read_small_file

MAX_TEXT_CHARACTERS = 100_000  # some 15 000 words; more takes seconds to tokenize
MAX_KEY_CHARACTERS = 1_000
MAX_BYTES = 512 << 20  # of a file


def entry_fields(entry: JsonValue) -> dict[str, Any]:
    """Return the fields of an object, without those that are null. Raises RefusedInput (`bad_entry`)."""
    if entry.error is not None:
        raise RefusedInput("bad_entry", entry.error)
    if not isinstance(entry.value, dict):
        raise RefusedInput("bad_entry", f"expected text or an object, got {type(entry.value).__name__}")
    return {name: value for name, value in entry.value.items() if value is not None}


def text_entries(path: Path) -> Iterator[JsonValue]:
    """Yield the lines of a text file that are not blank, stripped. Raises UsageError if it cannot be read."""
    for number, line in enumerate(_open(path), 1):  # separators such as U+2028 are part of a line
        if line.strip():
            try:
                yield JsonValue(number, f"line {number}", line.decode().strip())
            except UnicodeDecodeError as error:
                yield JsonValue(number, f"line {number}", error=f"not UTF-8: {error}")


def json_entries(path: Path) -> Iterator[JsonValue]:
    """Yield the elements of a `.json` file, or of any other file the JSON of each line that is not blank.

    Raises UsageError if the file cannot be read, or a `.json` file is not an array.
    """
    file = _open(path)
    return array_elements(file, str(path)) if path.suffix.lower() == ".json" else line_values(file)


def _open(path: Path) -> BinaryIO:
    """Read a file whole, and return its content in UTF-8 without a byte order mark."""
    content = read_small_file(path, MAX_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError as error:
            raise UsageError(f"{path}: not UTF-16: {error}") from error
    return io.BytesIO(content.removeprefix(codecs.BOM_UTF8))


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
