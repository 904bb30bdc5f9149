"""Lists of media on disk or in a bucket: their values, one at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shared.errors import RefusedInput, UsageError
from shared.storage.json_values import JsonValue, array_elements, line_values
from vq_stage.sources.files import open_file


def open_list(path: Path) -> BinaryIO:
    """Open a file without which nothing can be listed; it may be empty. Raises UsageError."""
    try:
        return open_file(path)
    except RefusedInput as refused:
        if refused.reason == "empty":
            return io.BytesIO()
        raise UsageError(f"{path}: cannot be read: {refused}") from refused


def listed_values(path: Path) -> Iterator[JsonValue]:
    """Yield the elements of a JSON array, or the values on the lines of a file that does not begin with `[`.

    Raises UsageError, naming the line, if the file is neither: an array is damaged, or the first line is not JSON.
    """
    with open_list(path) as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        values = array_elements(file, str(path)) if start.startswith(b"[") else line_values(file)
        for value in values:
            if value.error and value.number == 1:
                raise UsageError(f"{path}: {value.where}: {value.error}; expected a JSON array or a value on each line")
            yield value
