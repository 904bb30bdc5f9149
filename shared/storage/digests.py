"""Canonical JSON, digests of it, and the differences between two sets of settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SHOWN_CHARACTERS = 100


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, no NaN, and non-ASCII characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of a value in UTF-8, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def settings_diff(recorded: Mapping[Any, Any], given: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Return a line `name: recorded …, given …` for each setting that differs; nested names are joined by dots."""
    lines = []
    for name in sorted(set(recorded) | set(given)):
        old, new = recorded.get(name), given.get(name)
        if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, Mapping) for item in old + new):
            old, new = dict(enumerate(old)), dict(enumerate(new))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += settings_diff(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: recorded {_shortened(old)}, given {_shortened(new)}")
    return lines


def _shortened(value: Any) -> str:
    text = "nothing" if value is None else canonical_json(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
