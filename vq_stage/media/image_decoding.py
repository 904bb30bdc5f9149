"""Decoding of one image file to RGB pixels, or its refusal with a reason; the limits on sizes also hold for videos."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from shared.errors import RefusedInput
from vq_stage.media.metadata import orientation_of, without_metadata

# Image.open decides by content, not by suffix, and some of its formats start other programs (EPS) or belong to plug-ins
# that another package registered. TGA has no signature, so it is tried last. MPO is opened as JPEG.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
MAX_PIXELS = 178_956_970  # above it Pillow, by default, raises DecompressionBombError
MAX_FILE_BYTES = 512 << 20  # of one image: files are read whole; 3 bytes for each of MAX_PIXELS
MIN_SIDE = 8  # limit of the published image processor
MAX_ASPECT_RATIO = 5.0  # limit of the published image processor
DAMAGE = ("not_an_image", "truncated")
_STRIP_PIXELS = 1 << 22  # flattened at a time
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257

Transpose = Image.Transpose
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Pillow warns about images of half of MAX_PIXELS and about broken metadata, both of which are valid input. Appended,
# the filters replace only Python's default of printing a warning: those of the application, or -W, take precedence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image of one of FORMATS; no other code of Pillow reads the file. Raises what Pillow raises."""
    return Image.open(file, formats=_known_formats())


@lru_cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # Pillow may be built without some of them


def check_size(height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise RefusedInput `too_large`, `too_small` or `aspect_ratio` for a size in pixels outside the limits."""
    if width * height > max_pixels:
        raise RefusedInput("too_large", f"{height}×{width} pixels, expected at most {max_pixels} in total")
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
    return _despite_metadata(file, _read_size)


def decode_rgb(data: bytes) -> Image.Image:
    """Decode a file's bytes to an upright 8-bit RGB image.

    Transparent pixels are blended with white; 16 bits per channel are scaled to 8. Metadata affects only
    the orientation.
    Raises RefusedInput: `not_an_image`, `truncated`, `animated`, `too_large`, `too_small`, `aspect_ratio`
    or `unsupported_mode`.
    """
    return _despite_metadata(io.BytesIO(data), _decode_rgb)


def _despite_metadata(file: BinaryIO, read: Callable[[BinaryIO], T]) -> T:
    """Return `read(file)`; if that finds damage, try again without metadata.

    If that fails too, raise the first refusal.
    """
    try:
        return read(file)
    except RefusedInput as refused:
        if refused.reason not in DAMAGE:
            raise
        try:
            file.seek(0)
            bare = without_metadata(read_bytes(file))
            if bare is not None:
                return read(io.BytesIO(bare))
        except RefusedInput as error:
            if error.reason not in DAMAGE:
                raise
        raise


def _read_size(file: BinaryIO) -> tuple[int, int]:
    with refusing_damage("not_an_image"), open_image(file) as image:
        return _displayed_size(image, orientation_of(image, file))


def _decode_rgb(file: BinaryIO) -> Image.Image:
    with refusing_damage("not_an_image"), open_image(file) as image:
        orientation = orientation_of(image, file)
        _displayed_size(image, orientation)
        with refusing_damage("truncated"):
            image.load()
        check_size(image.height, image.width)  # an icon may contain another size than it states
        if orientation in _UPRIGHT and image.format != "TIFF":  # Pillow has turned a TIFF while loading it
            return _to_rgb(image.transpose(_UPRIGHT[orientation]))
        return _to_rgb(image)


@contextmanager
def refusing_damage(reason: str, unidentified: str = "not_an_image") -> Iterator[None]:
    """Turn any exception of Pillow into a refusal of this file, so that one damaged file does not stop the job.

    Pillow's plugins raise exceptions of many types on damaged files (SyntaxError, struct.error, IndexError, …),
    so all of them are caught; their tracebacks go to the debug log. `reason` is for damage, `unidentified` for a file
    of no known format. Pillow's own check against decompression bombs stays in force: by default it has the limit of
    `check_size`.
    """
    try:
        yield
    except (RefusedInput, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise RefusedInput(unidentified, f"none of the supported formats: {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a filter may raise the warning
        raise RefusedInput("too_large", str(error)) from error
    except Exception as error:
        logger.debug("an image cannot be decoded", exc_info=True)
        is_cut = isinstance(error, OSError | EOFError)
        raise RefusedInput("truncated" if is_cut else reason, f"cannot be read to its end: {error!r:.200}") from error


def _displayed_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Return (height, width) after the rotation that Exif asks for. Raises RefusedInput for animations and limits."""
    width, height = image.size
    check_size(height, width)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG followed by a preview
        raise RefusedInput("animated", f"{getattr(image, 'n_frames', 2)} frames, expected a still image")
    if image.format == "TIFF":  # newer versions of Pillow have rotated `size` already: use the stored one
        width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]  # type: ignore[attr-defined]
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise RefusedInput("unsupported_mode", "floating-point pixels have no known range")
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        return Image.fromarray((wide.clip(0, 65535) >> 8).astype(np.uint8), "L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return flatten_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return the image in RGB, with transparent pixels blended with white; in strips, for less memory."""
    flat = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box).convert("RGBA")
        flat.paste(
            Image.alpha_composite(Image.new("RGBA", strip.size, (255, 255, 255, 255)), strip).convert("RGB"), box
        )
    return flat
