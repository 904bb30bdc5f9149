"""Which values are text that can be stored: UTF-8 cannot encode half of a surrogate pair.

JSON can contain one, and Python reads bytes of the command line that are not UTF-8 as such.
"""

from __future__ import annotations


def is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can encode."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False
