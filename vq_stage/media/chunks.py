"""The chunks of PNG, WebP, JPEG and GIF files: what a file consists of, without decoding any of it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_SCAN = b"\xff\xda"  # what follows it is compressed pixels
GIF_IMAGE, GIF_CONTROL = b",", b"!\xf9"
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}


class Chunk(NamedTuple):
    """One chunk, and the bytes of the file where it starts, its body starts, and it ends; cut files end earlier."""

    kind: bytes
    start: int
    body: int
    end: int

    def read(self, file: BinaryIO, max_bytes: int) -> bytes:
        """Return up to `max_bytes` of the body; in PNG files the checksum counts as part of it."""
        file.seek(self.body)
        return file.read(min(max_bytes, self.end - self.body))


def is_webp(signature: bytes) -> bool:
    """Return whether a file's first twelve bytes are those of a WebP."""
    return signature[:4] == b"RIFF" and signature[8:12] == b"WEBP"


def png_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks of a PNG up to its end, or to the first that is none."""
    start, size = len(PNG_SIGNATURE), file.seek(0, os.SEEK_END)
    while start + 8 <= size:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if not kind.isalpha():
            return
        yield Chunk(kind, start, start + 8, start + 12 + length)
        start += 12 + length


def webp_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks of a WebP within the length that its header states."""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    start, size = 12, min(size, 8 + int.from_bytes(file.read(4), "little"))
    while start + 8 <= size:
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        yield Chunk(kind, start, start + 8, start + 8 + length + length % 2)
        start += 8 + length + length % 2


def jpeg_segments(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the segments of a JPEG, their markers as kinds; the last is the first scan and everything after it."""
    start, size = 2, file.seek(0, os.SEEK_END)
    while start + 4 <= size:
        file.seek(start)
        prefix, marker, length = struct.unpack(">BBH", file.read(4))
        kind = bytes((prefix, marker))
        if prefix != 0xFF:
            return
        if kind == JPEG_SCAN:
            yield Chunk(kind, start, start + 2, size)
            return
        end = start + (1 if marker == 0xFF else 2 if marker in _JPEG_WITHOUT_LENGTH else 2 + length)
        yield Chunk(kind, start, min(start + 4, end), end)
        start = end


def gif_blocks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the images and extensions of a GIF; an extension's kind is `!` and its label."""
    size = file.seek(0, os.SEEK_END)
    file.seek(10)
    flags = file.read(1)
    file.seek(13 + _palette_bytes(flags))
    while (start := file.tell()) < size:
        introducer = file.read(1)
        if introducer == b"!":
            kind = introducer + file.read(1)
        elif introducer == GIF_IMAGE:
            kind = introducer
            position_and_size = file.read(9)
            file.seek(_palette_bytes(position_and_size[8:]) + 1, os.SEEK_CUR)
        elif introducer == b";":
            return
        else:
            continue
        _skip_data(file)
        end = file.tell()
        yield Chunk(kind, start, start + len(kind), end)
        file.seek(end)


def _palette_bytes(flags: bytes) -> int:
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 128 else 0


def _skip_data(file: BinaryIO) -> None:
    """Move behind the sub-blocks of an image or an extension."""
    while (length := file.read(1)) and length[0]:
        file.seek(length[0], os.SEEK_CUR)
