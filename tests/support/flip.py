"""Damages a file by one bit."""

from __future__ import annotations

from pathlib import Path


def flip_bit(path: Path, content: bytes) -> None:
    """Flip the lowest bit of `content`, which must occur exactly once in the file."""
    data = bytearray(path.read_bytes())
    assert data.count(content) == 1, "the bytes must be found once"
    data[data.index(content)] ^= 1
    path.write_bytes(data)
