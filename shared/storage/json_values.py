"""The values of a file of JSON lines or of a JSON array, one at a time, each with the line that it is on.

A value that cannot be read costs only itself in a file of lines; in an array, nothing after it can be found.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import UsageError
from shared.storage.small_files import parse_json

MAX_VALUE_BYTES = 16 << 20  # of one line or one element
FIRST_BLOCK = 1 << 16  # bytes of an array that are parsed at a time; doubled while an element is incomplete
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One value, numbered from 1 and named for messages, such as `line 7`; `error` says why it cannot be read."""

    number: int
    where: str
    value: object = None
    error: str | None = None


def line_values(file: BinaryIO) -> Iterator[JsonValue]:
    """Parse each line that is not empty."""
    for number, line in enumerate(limited_lines(file), 1):
        if line is None or line.strip():
            yield parsed_line(number, line)


def parsed_line(number: int, line: bytes | None) -> JsonValue:
    """Parse a line as `limited_lines` yields it."""
    if line is None:
        return JsonValue(number, f"line {number}", error=f"longer than {MAX_VALUE_BYTES} bytes")
    return _parsed(number, f"line {number}", line)


def limited_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a file without a byte order mark; None for one that is too long, which is skipped."""
    is_first = True
    while line := file.readline(MAX_VALUE_BYTES + 1):
        is_long = len(line) > MAX_VALUE_BYTES
        while is_long and line and not line.endswith(b"\n"):
            line = file.readline(MAX_VALUE_BYTES)
        yield None if is_long else line.removeprefix(b"\xef\xbb\xbf") if is_first else line
        is_first = False


def array_elements(file: BinaryIO, where: str) -> Iterator[JsonValue]:
    """Yield the elements of a JSON array, of which one block is in memory at a time. Raises UsageError."""
    reader = _ArrayReader(file, where)
    reader.skip("[")
    number = 0
    while not reader.next_is("]"):
        if number:
            reader.skip(",")
        number += 1
        line, text = reader.element()
        yield _parsed(number, f"entry {number}, line {line}", text)
    reader.skip("]")


class _ArrayReader:
    """The text of an array from the current position on, read as far as needed; `line` is that of the position."""

    def __init__(self, file: BinaryIO, where: str):
        self._file, self._utf8 = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._where, self._text, self._position, self._line = where, "", 0, 1
        self._decoder = json.JSONDecoder(parse_int=len, parse_float=len)  # only the end of an element is needed

    def next_is(self, character: str) -> bool:
        self._skip_space()
        return self._text.startswith(character, self._position)

    def skip(self, character: str) -> None:
        if not self.next_is(character):
            found = self._text[self._position : self._position + 20]
            raise self._error(f"expected `{character}`, got {found!r}" if found else "the array has no end")
        self._position += 1

    def element(self) -> tuple[int, str]:
        """Return the line and the text of the next element."""
        self._skip_space()
        line, size = self._line, FIRST_BLOCK
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._position)
                if end < len(self._text) or not self._read(size):  # a number may go on in the next block
                    return line, self._advance(end)
            except RecursionError:
                raise self._error("not JSON: nested too deeply") from None
            except ValueError as error:
                is_long = len(self._text) - self._position > MAX_VALUE_BYTES
                if is_long or not self._read(size):
                    problem = error.msg if isinstance(error, json.JSONDecodeError) else error  # without a position
                    raise self._error(f"not JSON: {problem}") from error
            size *= 2

    def _advance(self, end: int) -> str:
        text = self._text[self._position : end]
        self._line += text.count("\n")
        self._position = end
        return text

    def _skip_space(self) -> None:
        while True:
            self._advance(_SPACE.match(self._text, self._position).end())  # type: ignore[union-attr]  # always matches
            if self._position < len(self._text) or not self._read(FIRST_BLOCK):
                return

    def _read(self, size_bytes: int) -> bool:
        """Read more; return whether there was more."""
        data = self._file.read(size_bytes)
        try:
            more = self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._error(f"expected UTF-8: {error}; save it as UTF-8") from error
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(data)

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"{self._where}: line {self._line}: {problem}")


def _parsed(number: int, where: str, content: bytes | str) -> JsonValue:
    try:
        return JsonValue(number, where, parse_json(content, where))
    except UsageError as error:
        return JsonValue(number, where, error=str(error).removeprefix(f"{where}: "))
