"""Small JSON files that carry their own checksum, so that one flipped byte anywhere is noticed."""

from __future__ import annotations

import json
from typing import Any

from shared.errors import DatasetError
from shared.storage.digests import canonical_json, digest_of

CHECK = "check"


def dump_sealed(value: dict[str, Any]) -> bytes:
    """Canonical JSON with `check`, the SHA-256 of everything else, and a newline."""
    return (canonical_json({**value, CHECK: digest_of(value)}) + "\n").encode()


def load_sealed(data: bytes, where: str) -> dict[str, Any]:
    """The value without its check. Raises DatasetError unless the bytes are exactly what `dump_sealed` wrote."""
    try:
        value = json.loads(data)
        check = value.pop(CHECK)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DatasetError(f"{where}: damaged: expected sealed JSON: {error!r}") from error
    if dump_sealed(value) != data:
        raise DatasetError(f"{where}: damaged: check {str(check)[:12]} expected {digest_of(value)[:12]}")
    return value
