"""How the inputs of a dataset differ now from those that it was made from."""

from __future__ import annotations

from enum import Enum


class Change(Enum):
    """The result of a comparison by content; modification times are not compared."""

    NONE = "none"
    GROWN = "grown"  # there are more inputs, and those that have rows are the same
    TEXTS = "texts"  # texts of inputs that have rows are different, and there may be more inputs
    CHANGED = "changed"  # an input that has a row has different content or is missing
