"""One image file to RGB pixels, or the reason why not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import RefusedInput
from vq_stage.media.size_limits import check_size

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before any pixel is decoded


def read_bytes(file: BinaryIO) -> bytes:
    """Content of an opened image file. Raises RefusedInput: `unreadable` or `empty`."""
    try:
        data = file.read()
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    if not data:
        raise RefusedInput("empty", "the file has no bytes")
    return data


def read_size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) as displayed, from the header alone of a seekable file. Raises RefusedInput."""
    with _refusing("not_an_image"), Image.open(file) as image:
        return _displayed_size(image)


def decode_rgb(data: bytes) -> Image.Image:
    """An upright 8-bit RGB image of encoded bytes; transparency is laid on white, 16 bits are scaled to 8.

    Raises RefusedInput: `not_an_image`, `truncated`, `animated`, `too_large`, `too_small`, `aspect_ratio`
    or `unsupported_mode`.
    """
    with _refusing("not_an_image"), Image.open(io.BytesIO(data)) as image:
        _displayed_size(image)
        with _refusing("truncated"):
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Whatever Pillow raises on a damaged file, of whatever type, refuses that file and not the job."""
    try:
        yield
    except (RefusedInput, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise RefusedInput("not_an_image", "no image format that Pillow knows") from error
    except Exception as error:
        is_cut = isinstance(error, OSError | EOFError)
        raise RefusedInput("truncated" if is_cut else reason, f"cannot be read to its end: {error!r:.200}") from error


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    check_size(height, width)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG with a preview behind it
        raise RefusedInput("animated", f"{getattr(image, 'n_frames', 2)} frames, expected a still image")
    if image.format == "TIFF":  # Pillow has turned the size already, newer versions only: take the stored one
        width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    is_turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if is_turned else (height, width)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise RefusedInput("unsupported_mode", "floating-point pixels have no known range")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8), "L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return flatten_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return the image in RGB, with transparent pixels blended with white."""
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")
