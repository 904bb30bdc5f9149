"""The keys of clips: those of their video with a number."""

from __future__ import annotations

import re

_CLIP_NUMBER = re.compile(r"#\d{5}$")


def clip_key(key: str, number: int) -> str:
    """Return the key of one of several clips of a video."""
    return f"{key}#{number:05d}"


def item_key(key: str) -> str:
    """Return the key of the video that a clip with this key is of; the key itself if it is none of a clip."""
    return _CLIP_NUMBER.sub("", key)
