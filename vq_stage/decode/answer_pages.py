"""Decoded answers of text and images: the pictures of each, and a page that shows text and pictures in their order.

The page of key `a` is `a.html`, its pictures are `a.images/000.png` and so on. The page is written last, so an answer
that has its page is complete. The template answer_page.html.j2 escapes all text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from shared.dataset.rows import AnswerRecord
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory
from vq_stage.decode.options import MediaFormats
from vq_stage.decode.output_files import PAGE, PICTURES, image_bytes, picture_path

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class PagePart:
    """A part of an answer on its page; a picture has the location of its file, relative to the page."""

    kind: str
    text: str | None
    picture: str | None


def write_answer(out: Path, row: AnswerRecord, pictures: Sequence[np.ndarray], formats: MediaFormats) -> None:
    """Write the pictures (H, W, 3) of an answer, uint8, and then its page."""
    folder, page = picture_path(out, row.key, PICTURES), picture_path(out, row.key, PAGE)
    names = [f"{number:03d}.{formats.image}" for number in range(len(pictures))]
    make_directory(folder if names else page.parent)
    for name, pixels in zip(names, pictures):
        write_file(folder / name, image_bytes(pixels, formats))
    write_file(page, answer_page(row, [f"{quote(folder.name)}/{name}" for name in names]).encode())


def answer_page(row: AnswerRecord, pictures: Sequence[str]) -> str:
    """Return the page of an answer, with the location of each of its pictures."""
    remaining = iter(pictures)
    parts = [PagePart(part.kind, part.text, next(remaining) if part.kind == "image" else None) for part in row.parts]
    is_cut = row.finish_reason != "complete"
    return _template().render(title=row.key, prompt=row.text or "", parts=parts, is_cut=is_cut)


@cache
def _template() -> Template:
    import jinja2

    loader = jinja2.PackageLoader("vq_stage", "decode")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("answer_page.html.j2")
