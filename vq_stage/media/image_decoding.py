"""Decoding of one image file to RGB pixels, or its refusal with a reason; the limits on sizes also hold for videos."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.codec import SPATIAL_FACTOR
from shared.errors import RefusedInput

MAX_PIXELS = 178_956_970  # above it Pillow, by default, raises DecompressionBombError
MAX_FILE_BYTES = 512 << 20  # of one image: files are read whole; 3 bytes for each of MAX_PIXELS
MIN_SIDE = SPATIAL_FACTOR
MAX_ASPECT_RATIO = 5.0  # limit of the published image processor
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

logger = logging.getLogger(__name__)

# Pillow warns about images of half of MAX_PIXELS, which are valid input. Appended, the filter replaces only Python's
# default of printing the warning: a filter of the application, or -W, takes precedence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)


def check_size(height: int, width: int) -> None:
    """Raise RefusedInput `too_large`, `too_small` or `aspect_ratio` for a size in pixels outside the limits."""
    if width * height > MAX_PIXELS:
        raise RefusedInput("too_large", f"{height}×{width} pixels, expected at most {MAX_PIXELS} in total")
    if min(height, width) < MIN_SIDE:
        raise RefusedInput("too_small", f"{height}×{width} pixels, expected sides of at least {MIN_SIDE}")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise RefusedInput("aspect_ratio", f"{height}×{width} pixels, expected at most 1:{MAX_ASPECT_RATIO:g}")


def read_bytes(file: BinaryIO) -> bytes:
    """Return the content of an opened image file. Raises RefusedInput: `unreadable`, `empty` or `too_large`."""
    try:
        if (size_bytes := file.seek(0, os.SEEK_END)) > MAX_FILE_BYTES:
            raise RefusedInput("too_large", f"{size_bytes} bytes, expected at most {MAX_FILE_BYTES}")
        file.seek(0)
        data = file.read()
    except OSError as error:
        raise RefusedInput("unreadable", error.strerror or str(error)) from error
    if not data:
        raise RefusedInput("empty", "the file has no bytes")
    return data


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Return (height, width) as displayed, from the header alone of a seekable file.

    Raises RefusedInput as `decode_rgb` does, except for what only the pixels show.
    """
    with refusing_damage("not_an_image"), Image.open(file) as image:
        return _displayed_size(image)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode a file's bytes to an upright 8-bit RGB image.

    Transparent pixels are blended with white; 16 bits per channel are scaled to 8.
    Raises RefusedInput: `not_an_image`, `truncated`, `animated`, `too_large`, `too_small`, `aspect_ratio`
    or `unsupported_mode`.
    """
    with refusing_damage("not_an_image"), Image.open(io.BytesIO(data)) as image:
        _displayed_size(image)
        with refusing_damage("truncated"):
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))


@contextmanager
def refusing_damage(reason: str, unidentified: str = "not_an_image") -> Iterator[None]:
    """Turn any exception of Pillow into a refusal of this file, so that one damaged file does not stop the job.

    Pillow's plugins raise exceptions of many types on damaged files (SyntaxError, struct.error, IndexError, …),
    so all of them are caught; their tracebacks go to the debug log. `reason` is for damage, `unidentified` for a file
    of no known format. Pillow's own check against decompression bombs
    stays in force: by default it has the limit of `check_size`.
    """
    try:
        yield
    except (RefusedInput, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise RefusedInput(unidentified, "no image format that Pillow supports") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a filter may raise the warning
        raise RefusedInput("too_large", str(error)) from error
    except Exception as error:
        logger.debug("an image cannot be decoded", exc_info=True)
        is_cut = isinstance(error, OSError | EOFError)
        raise RefusedInput("truncated" if is_cut else reason, f"cannot be read to its end: {error!r:.200}") from error


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) after the rotation that Exif asks for. Raises RefusedInput for animations and limits."""
    width, height = image.size
    check_size(height, width)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG followed by a preview
        raise RefusedInput("animated", f"{getattr(image, 'n_frames', 2)} frames, expected a still image")
    if image.format == "TIFF":  # newer versions of Pillow have rotated `size` already: use the stored one
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]  # type: ignore[attr-defined]
    is_rotated = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (width, height) if is_rotated else (height, width)


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
