"""File and member names for keys, which may be any text."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

MAX_LENGTH = 80  # leaves room for the longest suffix within the 100 bytes of a plain tar header


def safe_name(key: str) -> str:
    """Return a name of 1 to 80 ASCII letters, digits and `_-%~`, different for every key.

    All other bytes are percent-encoded, dots included, because WebDataset splits names at the first dot. A long name
    ends in `~` and a hash of its key instead; `~` occurs in no other name.
    """
    name = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    if not name:
        return "~"
    if len(name) <= MAX_LENGTH:
        return name
    return f"{name[:40]}~{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
