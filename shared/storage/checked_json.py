"""Small JSON files that carry their own checksum, so that a single flipped bit anywhere in them is noticed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

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


def field_problem(record: Any) -> str | None:
    """Describe the first field of a dataclass that is not of its annotated type, None if all are.

    JSON that someone wrote by hand can have a valid checksum and values of any type.
    """
    for name, hint in _type_hints(type(record)).items():  # type: ignore[arg-type]  # classes are hashable
        if not _is_of_type(getattr(record, name), hint):
            return f"{name}: expected {getattr(hint, '__name__', hint)}, got {getattr(record, name)!r:.40}"
    return None


@cache
def _type_hints(record_class: Any) -> dict[str, Any]:
    return get_type_hints(record_class)


def _is_of_type(value: object, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_is_of_type(value, arg) for arg in args)
    if origin is dict and isinstance(value, dict):
        return all(_is_of_type(key, args[0]) and _is_of_type(item, args[1]) for key, item in value.items())
    if origin is list and isinstance(value, list):
        return all(_is_of_type(item, args[0]) for item in value)
    if origin is tuple and isinstance(value, tuple):
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(hints) == len(value) and all(map(_is_of_type, value, hints))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return isinstance(value, origin or hint)
