"""How the inputs of a dataset differ now from those that it was made from."""

from __future__ import annotations

from enum import Enum


class Change(Enum):
    """The result of a comparison by content; times of files play no part."""

    NONE = "none"
    GROWN = "grown"  # there are more inputs, and those that have rows are the same
    CHANGED = "changed"  # an input that has a row has another content, or is gone
