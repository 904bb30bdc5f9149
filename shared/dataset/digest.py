"""The digest of a dataset, which `emu3 verify` prints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from shared.storage.digests import canonical_json


class DatasetDigest:
    """The sum of the SHA-256 of all rows modulo 2**256, hashed with the dataset's fingerprints.

    It does not depend on the order of the rows, on how they are split into files, or on the file format.
    """

    def __init__(self, fingerprints: Mapping[str, Any]):
        self._sum = 0
        self._rows = 0
        self._fingerprints = dict(fingerprints)

    def add(self, row_digests: Iterable[bytes]) -> None:
        for digest in row_digests:
            self._sum = (self._sum + int.from_bytes(digest, "big")) % (1 << 256)
            self._rows += 1

    def hexdigest(self) -> str:
        """Return 64 hex digits."""
        header = canonical_json({"rows": self._rows, "fingerprints": self._fingerprints})
        return hashlib.sha256(header.encode() + b"\0" + self._sum.to_bytes(32, "big")).hexdigest()
