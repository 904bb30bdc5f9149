"""Files that are not valid pictures, each with the reason of its refusal, and odd ones that must be accepted."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 16, 24
GRAY = (90, 140, 200)


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Return noise, which no codec can compress to nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def animated(format: str) -> bytes:
    """Return an animation of two different frames."""
    return encoded(picture(1), format, save_all=True, append_images=[picture(2)], duration=100)


def cut(data: bytes) -> bytes:
    """Return the first two thirds of a file."""
    return data[: len(data) * 2 // 3]


def garbled(data: bytes) -> bytes:
    """Return the file with its middle third overwritten."""
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def broken_chunk() -> bytes:
    """Return a PNG whose second IDAT chunk has a wrong name."""
    data = encoded(picture(0, 64, 64), "PNG", compress_level=0)
    first = data.index(b"IDAT")
    body = data[first + 4 : -16]
    middle = len(body) // 2
    return data[: first - 4] + chunk(b"IDAT", body[:middle]) + chunk(b"\1\2\3\4", body[middle:]) + data[-12:]


def chunk(name: bytes, body: bytes) -> bytes:
    """Return one PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and contains almost no data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def turned(orientation: int, format: str, image: Image.Image | None = None, **options: object) -> bytes:
    """Return a picture with an Exif orientation; 6 and 8 are quarter turns."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image or picture(3, WIDTH, HEIGHT), format, exif=exif, **options)


def rgba() -> Image.Image:
    """Return a picture whose left half is opaque GRAY and whose right half is fully transparent black."""
    image = Image.new("RGBA", (WIDTH, HEIGHT), (*GRAY, 255))
    image.paste((0, 0, 0, 0), (WIDTH // 2, 0, WIDTH, HEIGHT))
    return image


def palette(is_transparent: bool) -> bytes:
    """Return a picture whose left half is GRAY and whose right half is black or, with transparency, nothing."""
    image = Image.new("P", (WIDTH, HEIGHT), 0)
    image.putpalette([*GRAY, 0, 0, 0])
    image.paste(1, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return encoded(image, "PNG", transparency=1) if is_transparent else encoded(image, "PNG")


def gray16(value: int) -> bytes:
    return encoded(Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint16)), "PNG")


DAMAGED = "not_an_image|truncated"  # depends on how much of a file its format reads when opening it

# File name → (content, allowed reasons). Every reason that the bytes of a file can cause occurs at least once.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.png": (lambda: b"", "empty"),
    "text.png": (lambda: b"<html>404 not found</html>\n", "not_an_image"),
    "garbled.png": (lambda: garbled(encoded(picture(), "PNG")), "truncated"),
    "broken-chunk.png": (broken_chunk, DAMAGED),
    "cut.png": (lambda: cut(encoded(picture(), "PNG")), "truncated"),
    "cut.webp": (lambda: cut(encoded(picture(), "WEBP")), DAMAGED),
    "cut.jpg": (lambda: cut(encoded(picture(0, 96, 96), "JPEG")), "truncated"),
    "cut.gif": (lambda: cut(encoded(picture(), "GIF")), "truncated"),
    "cut-header.png": (lambda: encoded(picture(), "PNG")[:20], DAMAGED),
    "animated.gif": (lambda: animated("GIF"), "too_short"),
    "animated.webp": (lambda: animated("WEBP"), "too_short"),
    "bomb.png": (lambda: png_header(60_000, 60_000), "too_large"),
    "pixel.png": (lambda: encoded(picture(0, 1, 1), "PNG"), "too_small"),
    "ribbon.png": (lambda: encoded(picture(0, 8, 20_000), "PNG"), "aspect_ratio"),
    "float.tif": (lambda: encoded(Image.new("F", (WIDTH, HEIGHT), 0.5), "TIFF"), "unsupported_mode"),
}

# File name → content; all are shown as 16 × 24 pixels.
ACCEPTED: dict[str, Callable[[], bytes]] = {
    "plain.png": lambda: encoded(picture(4), "PNG"),
    "two words.jpg": lambda: encoded(picture(5), "JPEG"),
    "漢字 ünï😀.webp": lambda: encoded(picture(6), "WEBP"),
    "name.with.several.dots.png": lambda: encoded(picture(7), "PNG"),
    "-dash'quote\".png": lambda: encoded(picture(9), "PNG"),
    "line\nbreak\u2028.png": lambda: encoded(picture(10), "PNG"),
    "UPPER.PNG": lambda: encoded(picture(11), "PNG"),
    "deep/er/folder/same.png": lambda: encoded(picture(12), "PNG"),
    "deep/er/same.png": lambda: encoded(picture(13), "PNG"),
    "twins.png": lambda: encoded(picture(14), "PNG"),
    "twins.jpg": lambda: encoded(picture(14), "JPEG"),
    "wrong-suffix.png": lambda: encoded(picture(15), "JPEG"),
    "cmyk.jpg": lambda: encoded(picture(16).convert("CMYK"), "JPEG"),
    "gray16.png": lambda: gray16(40_000),
    "palette.png": lambda: palette(False),
    "palette-transparent.png": lambda: palette(True),
    "rgba.png": lambda: encoded(rgba(), "PNG"),
    "turned.jpg": lambda: turned(6, "JPEG"),
}


def fill_folder(folder: Path) -> dict[str, str | None]:
    """Write all of these files and a dangling link. Return the allowed reasons per file, None if it is valid."""
    expected: dict[str, str | None] = {}
    for name, (content, reason) in REFUSED.items():
        _write(folder / name, content())
        expected[name] = reason
    for name, content in ACCEPTED.items():
        _write(folder / name, content())
        expected[name] = None
    os.symlink("nowhere.png", folder / "dangling.png")  # unreadable even for root, who ignores permissions
    return {**expected, "dangling.png": "missing"}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
