"""Digests of settings, and the diff that is printed when two settings differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, UTF-8 left as it is, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def settings_diff(recorded: Mapping[Any, Any], given: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Lines `name: recorded …, given …`, one for every setting that differs; nested names are joined by dots."""
    lines = []
    for name in sorted(set(recorded) | set(given)):
        old, new = recorded.get(name), given.get(name)
        if isinstance(old, list) and isinstance(new, list) and all(isinstance(one, Mapping) for one in old + new):
            old, new = dict(enumerate(old)), dict(enumerate(new))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += settings_diff(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: recorded {_short(old)}, given {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = "nothing" if value is None else canonical_json(value)
    return text if len(text) <= 100 else text[:97] + "..."
