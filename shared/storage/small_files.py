"""Small files that are read whole, and JSON in them: whatever a file contains or is, the error names it.

Links to pipes, devices and directories are refused without being read, and so is a file that is too large.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from shared.errors import RelayError, UsageError
from shared.storage.paths import is_local

MAX_SMALL_FILE_BYTES = 64 << 20
_MAX_DEPTH = 200  # of nested JSON; Python's own limit of about 1 000 depends on the depth of the call stack
_MAX_DIGITS = 40  # of an integer in JSON; more fit neither int64 nor float64


def read_small_file(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES, error: type[RelayError] = UsageError) -> bytes:
    """Return the content of a regular file of at most `max_bytes`, local or remote.

    Raises `error` if the file is missing, too large, not a regular file, or cannot be read.
    """
    try:
        content = _read_local(path, max_bytes + 1, error) if is_local(path) else _read_object(path, max_bytes + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as cause:  # ValueError: a name with a null character
        raise error(f"{path}: cannot be read: {cause}") from cause
    if len(content) > max_bytes:
        raise error(f"{path}: larger than {max_bytes} bytes, the limit for a file of this kind")
    return content


def _read_local(path: Path, max_bytes: int, error: type[RelayError]) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # opening a pipe would wait for its writer
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: expected a regular file")
        # Memory for as many bytes as may be read is allocated first; `st_size` is 0 in some file systems.
        return file.read(min(max_bytes, status.st_size + 1) if status.st_size else max_bytes)


def _read_object(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(max_bytes)


def parse_json(content: bytes | str, where: str, error: type[RelayError] = UsageError) -> Any:
    """Parse JSON in UTF-8. Raises `error`, naming `where`, line, column and cause.

    Values that valid JSON may have but hardly any program can use are refused too: more than 200 levels of lists and
    objects, and integers of more than 40 digits.
    """
    try:
        text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as cause:
        raise error(f"{where}: not JSON: {_describe(cause)}") from cause
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(value):
        raise error(f"{where}: nested more than {_MAX_DEPTH} levels deep")
    return value


def parse_json_object(content: bytes | str, where: str, error: type[RelayError] = UsageError) -> dict[str, Any]:
    """Parse JSON that must be an object. Raises `error` like `parse_json`."""
    value = parse_json(content, where, error)
    if not isinstance(value, dict):
        raise error(f"{where}: expected a JSON object, got {value!r:.100}")
    return value


def read_json_object(
    path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES, error: type[RelayError] = UsageError
) -> dict[str, Any]:
    """Read a JSON file that must be an object. Raises `error` like `read_small_file` and `parse_json`."""
    return parse_json_object(read_small_file(path, max_bytes, error), str(path), error)


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits, expected at most {_MAX_DIGITS}")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


def _describe(cause: Exception) -> str:
    return "nested too deeply" if isinstance(cause, RecursionError) else str(cause)


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(value: object) -> list[object]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, dict | list)]
