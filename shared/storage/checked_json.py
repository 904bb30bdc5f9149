"""Small JSON files that carry their own checksum, so that a single flipped bit anywhere in them is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import DatasetError
from shared.storage.digests import canonical_json, digest_of
from shared.storage.small_files import MAX_SMALL_FILE_BYTES, parse_json_object, read_small_file

_CHECKSUM = "check"  # the member that holds the checksum


def dump_checked_json(value: dict[str, Any]) -> bytes:
    """Return canonical JSON and a newline; `check` is the SHA-256 of the canonical JSON without it."""
    return (canonical_json({**value, _CHECKSUM: digest_of(value)}) + "\n").encode()


def read_checked_json(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES) -> dict[str, Any]:
    """Return the value in a file. Raises DatasetError if the file cannot be read or is damaged."""
    return load_checked_json(read_small_file(path, max_bytes, DatasetError), str(path))


def load_checked_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the value without `check`. Raises DatasetError unless `dump_checked_json` wrote exactly these bytes."""
    value = parse_json_object(data, f"{where}: damaged", DatasetError)
    found = value.pop(_CHECKSUM, "missing")
    try:
        expected = dump_checked_json(value)
    except ValueError as error:  # JSON that is not canonical: NaN, or half of a surrogate pair
        raise DatasetError(f"{where}: damaged: {error}") from error
    if expected != data:
        raise DatasetError(f"{where}: damaged: checksum {str(found)[:12]} expected {digest_of(value)[:12]}")
    return value
