"""A set of keys whose memory does not depend on how long the keys are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


class KnownKeys:
    """A set of keys, kept as digests of 16 bytes; the keys of `before` are in it too."""

    def __init__(self, keys: Iterable[str] = (), before: KnownKeys | None = None):
        self._digests: set[bytes] = set()
        self._before = before
        for key in keys:
            self.is_new(key)

    def is_new(self, key: str) -> bool:
        """Add a key; return whether it was not in the set before."""
        if self.has(key):
            return False
        self._digests.add(_digest(key))
        return True

    def has(self, key: str) -> bool:
        return _digest(key) in self._digests or (self._before is not None and self._before.has(key))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
