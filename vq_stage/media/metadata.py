"""Metadata of images: the orientation is used, and nothing else may decide whether an image is accepted.

Decoders stumble over large texts, color profiles and broken Exif. What they need for the pixels alone is therefore
copied into a file of its own, with the orientation if that can be read.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

from PIL import Image

from vq_stage.media.chunks import (
    GIF_CONTROL,
    GIF_IMAGE,
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    Chunk,
    gif_blocks,
    is_webp,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)

MAX_METADATA_BYTES = 1 << 20  # more is not searched for an orientation
_ORIENTATION = 0x0112
_INTEGER_FORMATS = {1: "B", 3: "H", 4: "I"}  # by Exif type
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_EXIF_HEADER = re.compile(rb"\A(Exif\0\0){1,2}")
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_RAW_PROFILE, _PNG_XMP = b"Raw profile type exif", b"XML:com.adobe.xmp"

_PNG_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}  # beside the critical chunks, which begin with a capital
_JPEG_PIXELS = {b"\xff\xe0": 14, b"\xff\xee": 12}  # JFIF and Adobe, which state the color space: the least length
_WEBP_PIXELS = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_WEBP_METADATA_FLAGS, _WEBP_EXIF_FLAG = 0x2C, 0x08
_TIFF_PIXELS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 318, 319, 320, 322, 323),
    *(324, 325, 332, 334, 336, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531),
    *(532, 34925, 50674),
}


def orientation_of(image: Image.Image, file: BinaryIO) -> int:
    """Return the Exif orientation, from 1 (upright) to 8, of an image opened from `file`; 1 if it cannot be read."""
    if image.format == "PNG":
        position = file.tell()
        orientation = _png_orientation(file, png_chunks(file))
        file.seek(position)
        return orientation
    exif, xmp = image.info.get("exif") or b"", image.info.get("xmp") or b""
    return _orientation(_tiff_exif(image) if image.format == "TIFF" else exif, xmp)


def without_metadata(data: bytes) -> bytes | None:
    """Return a file with the same pixels and orientation, but without other metadata; None for other formats."""
    if data.startswith(PNG_SIGNATURE):
        return _bare_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _bare_jpeg(data)
    if is_webp(data[:12]):
        return _bare_webp(data)
    if data.startswith(b"GIF8"):
        return _bare_gif(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _bare_tiff(data)
    if data[4:12] in (b"ftypavif", b"ftypavis"):  # an item of unknown type is ignored
        return data.replace(b"Exif", b"none")
    return None


def _orientation(exif: bytes, xmp: bytes | str) -> int:
    found = exif_orientation(exif)
    if found is None:
        match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
        found = int(match[1]) if match else 1
    return found if 1 <= found <= 8 else 1


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation that Exif data state, valid or not; None if there is none, as far as it can be read."""
    exif = _EXIF_HEADER.sub(b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    found = None
    try:
        (offset,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, offset)
        for start in range(offset + 2, offset + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", exif, start)
            if tag == _ORIENTATION and kind in _INTEGER_FORMATS and count == 1:
                (found,) = struct.unpack_from(order + _INTEGER_FORMATS[kind], exif, start + 8)
    except struct.error:  # the data end here; what was read until then is used
        pass
    return found


def _tiff_exif(image: Image.Image) -> bytes:
    try:
        value = image.tag_v2.get(_ORIENTATION)  # type: ignore[attr-defined]
    except Exception:  # Pillow parses a tag when it is asked for, and raises exceptions of many types
        return b""
    return _clean_exif(value) if isinstance(value, int) and 0 <= value < 1 << 16 else b""


def _clean_exif(orientation: int) -> bytes:
    return struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)


def _png_orientation(file: BinaryIO, chunks: Iterable[Chunk]) -> int:
    exif = profile = xmp = b""
    for chunk in chunks:
        if chunk.kind == b"eXIf":
            exif = chunk.read(file, MAX_METADATA_BYTES)[:-4]
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            name, _, text = chunk.read(file, MAX_METADATA_BYTES).partition(b"\0")
            if name == _RAW_PROFILE:
                profile = _raw_profile(_inflated(text[1:]) if chunk.kind == b"zTXt" else text[:-4])
            elif name == _PNG_XMP and chunk.kind == b"iTXt":
                xmp = text[2:].split(b"\0", 2)[-1]
                xmp = _inflated(xmp) if text[:1] == b"\1" else xmp
    return _orientation(exif or profile, xmp)


def _inflated(data: bytes) -> bytes:
    """Return decompressed text; nothing if it is damaged or too large."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_METADATA_BYTES)
    except zlib.error:
        return b""
    return b"" if stream.unconsumed_tail else text


def _raw_profile(text: bytes) -> bytes:
    """Return the Exif data that ImageMagick writes as text: three lines, then hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    except ValueError:
        return b""


def _bare_png(data: bytes) -> bytes:
    file = io.BytesIO(data)
    chunks = list(png_chunks(file))
    kept = [chunk for chunk in chunks if chunk.kind in _PNG_PIXELS or chunk.kind[:1].isupper()]
    body = b"eXIf" + _clean_exif(_png_orientation(file, chunks))
    exif = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = chunks[-1].end if chunks else len(PNG_SIGNATURE)
    pieces = [data[chunk.start : chunk.end] for chunk in kept]
    return b"".join((PNG_SIGNATURE, *pieces[:1], exif, *pieces[1:], data[end:]))


def _bare_jpeg(data: bytes) -> bytes:
    file = io.BytesIO(data)
    pieces, exif, xmp = [], b"", b""
    end = 2
    for segment in jpeg_segments(file):
        body, end = data[segment.body : segment.end], segment.end
        if segment.kind == b"\xff\xe1" and body.startswith(b"Exif\0\0"):
            exif = exif + body[6:] if exif else body
        elif segment.kind == b"\xff\xe1" and body.startswith(_XMP_HEADER):
            xmp = body
        is_metadata = b"\xff\xe0" <= segment.kind <= b"\xff\xef" or segment.kind == b"\xff\xfe"
        if not is_metadata or len(body) >= _JPEG_PIXELS.get(segment.kind, len(data)):
            pieces.append(data[segment.start : segment.end])
    body = b"Exif\0\0" + _clean_exif(_orientation(exif, xmp))
    clean = b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    return b"".join((data[:2], clean, *pieces, data[end:]))


def _bare_webp(data: bytes) -> bytes:
    file = io.BytesIO(data)
    exif = xmp = b""
    pieces = []
    for chunk in webp_chunks(file):
        piece = data[chunk.start : chunk.end]
        if chunk.kind == b"VP8X":
            flags = piece[8] & ~_WEBP_METADATA_FLAGS | _WEBP_EXIF_FLAG if len(piece) > 8 else 0
            piece = piece[:8] + bytes((flags,)) + piece[9:]
        if chunk.kind in _WEBP_PIXELS:
            pieces.append(piece)
        elif chunk.kind == b"EXIF":
            exif = piece[8:]
        elif chunk.kind == b"XMP ":
            xmp = piece[8:]
    if pieces and pieces[0].startswith(b"VP8X"):
        clean = _clean_exif(_orientation(exif, xmp))
        pieces.append(b"EXIF" + struct.pack("<I", len(clean)) + clean)
    body = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bare_gif(data: bytes) -> bytes:
    blocks = list(gif_blocks(io.BytesIO(data)))
    pixels = [data[block.start : block.end] for block in blocks if block.kind in (GIF_IMAGE, GIF_CONTROL)]
    return b"".join((data[: blocks[0].start] if blocks else data, *pixels))


def _bare_tiff(data: bytes) -> bytes | None:
    """Remove the entries of the first directory that do not describe pixels, in place."""
    order, is_big = ("<" if data[:2] == b"II" else ">"), b"+" in data[2:4]
    count_format, size, (offset_format, at) = ("Q", 20, ("Q", 8)) if is_big else ("H", 12, ("I", 4))
    rewritten = bytearray(data)
    try:
        (offset,) = struct.unpack_from(order + offset_format, data, at)
        (count,) = struct.unpack_from(order + count_format, data, offset)
        first = offset + struct.calcsize(count_format)
        if first + count * size > len(data):
            return None
        entries = [data[start : start + size] for start in range(first, first + count * size, size)]
        kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in _TIFF_PIXELS]
        struct.pack_into(order + count_format, rewritten, offset, len(kept))
    except (struct.error, OverflowError):
        return None
    end = first + count * size
    tail = data[end : end + struct.calcsize(offset_format)]
    rewritten[first : first + len(kept) * size + len(tail)] = b"".join(kept) + tail
    return bytes(rewritten)
