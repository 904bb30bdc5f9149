"""Small JSON files that carry their own checksum, so that a single flipped bit anywhere in them is noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    for name, hint, is_of_type in _field_checks(type(record)):  # type: ignore[arg-type]  # classes are hashable
        if not is_of_type(value := getattr(record, name)):
            return f"{name}: expected {getattr(hint, '__name__', hint)}, got {value!r:.40}"
    return None


@cache
def _field_checks(record_class: Any) -> list[tuple[str, Any, Callable[[Any], bool]]]:
    """Return the name, the type and the check of each field; built once, since manifests have 10⁵ records."""
    return [(name, hint, _check(hint)) for name, hint in get_type_hints(record_class).items()]


def _check(hint: Any) -> Callable[[Any], bool]:
    """Return a function that tells whether a value is of a type."""
    origin, checks = get_origin(hint), [_check(arg) for arg in get_args(hint) if arg is not Ellipsis]
    if hint is Any:
        return lambda value: True
    if hint is int:
        return lambda value: type(value) is int and abs(value) < 1 << 63
    if origin in (Union, UnionType):
        return lambda value: any(check(value) for check in checks)
    if origin is dict:
        key, item = checks
        return lambda value: type(value) is dict and all(key(k) and item(v) for k, v in value.items())
    if origin is tuple and get_args(hint)[-1] is not Ellipsis:
        return lambda value: type(value) is tuple and _all_match(checks, value)
    if origin in (list, tuple):
        return lambda value: type(value) is origin and all(map(checks[0], value))
    return lambda value: isinstance(value, hint)


def _all_match(checks: Sequence[Callable[[Any], bool]], values: Sequence[Any]) -> bool:
    return len(values) == len(checks) and all(check(value) for check, value in zip(checks, values))
