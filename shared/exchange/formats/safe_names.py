"""File and member names for keys, which may hold anything."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

MAX_LENGTH = 80  # with the longest ending below the 100 bytes of a plain tar header


def safe_name(key: str) -> str:
    """A name of at most 80 ASCII letters, digits and `_-%~`, another one for every key; never empty.

    Other bytes are percent-encoded, dots too: WebDataset cuts names at the first one. A long name ends in a hash of
    its key instead, after `~`, which stands in no other name.
    """
    name = quote(key, safe="").replace(".", "%2E").replace("~", "%7E")
    if not name:
        return "~"
    if len(name) <= MAX_LENGTH:
        return name
    return f"{name[:40]}~{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
