"""Grids of images: contact sheets with captions, and rows of equal-sized images to compare."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shared.storage.atomic import write_file

GAP = 8
COLUMNS = 8  # at most
CAPTION_LINES = 2


def save_rows(path: Path, rows: Sequence[np.ndarray]) -> None:
    """Write a PNG with one line per row of equal-sized uint8 images (B, H, W, 3)."""
    lines = [np.concatenate(list(row), axis=1) for row in rows]
    _save_png(path, Image.fromarray(np.concatenate(lines, axis=0)))


def save_sheet(path: Path, pictures: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    """Write a PNG contact sheet of uint8 images (H, W, 3) of any sizes, each above its caption."""
    font = ImageFont.load_default(12)
    cell = max(96, min(256, max((max(picture.shape[:2]) for picture in pictures), default=96)))
    columns = max(1, min(COLUMNS, len(pictures)))
    row_height = cell + 16 * CAPTION_LINES + GAP
    rows = -(-len(pictures) // columns) or 1
    sheet = Image.new("RGB", (columns * (cell + GAP) + GAP, rows * row_height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (pixels, caption) in enumerate(zip(pictures, captions)):
        x, y = GAP + index % columns * (cell + GAP), GAP + index // columns * row_height
        picture = Image.fromarray(pixels)
        picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        lines = textwrap.wrap(caption, max(8, cell // 7))[:CAPTION_LINES]
        draw.multiline_text((x + cell // 2, y + cell + 2), "\n".join(lines), "black", font, "ma", align="center")
    _save_png(path, sheet)


def _save_png(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_file(path, buffer.getvalue())
