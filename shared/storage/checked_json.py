"""Small JSON files that carry their own checksum, so that a single flipped bit anywhere in them is noticed."""

from __future__ import annotations

import json
from typing import Any

from shared.errors import DatasetError
from shared.storage.digests import canonical_json, digest_of

_CHECKSUM = "check"  # the member that holds the checksum


def dump_checked_json(value: dict[str, Any]) -> bytes:
    """Return canonical JSON and a newline; `check` is the SHA-256 of the canonical JSON without it."""
    return (canonical_json({**value, _CHECKSUM: digest_of(value)}) + "\n").encode()


def load_checked_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the value without `check`. Raises DatasetError unless `dump_checked_json` wrote exactly these bytes."""
    try:
        value = json.loads(data)
        found = value.pop(_CHECKSUM)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DatasetError(f"{where}: damaged: expected JSON with its checksum: {error!r}") from error
    if dump_checked_json(value) != data:
        raise DatasetError(f"{where}: damaged: checksum {str(found)[:12]} expected {digest_of(value)[:12]}")
    return value
