"""The parts a sequence is rendered from: text, control tokens, token ids, and grids of codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import RefusedInput

IMAGE_MARK = "<image>"


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """The codes (T, H, W) of an image or a video within a sequence; an image has one frame."""

    codes_THW: np.ndarray
    is_video: bool

    @classmethod
    def image(cls, codes_HW: np.ndarray) -> CodeGrid:
        return cls(codes_HW[None], is_video=False)

    @classmethod
    def video(cls, codes_THW: np.ndarray) -> CodeGrid:
        return cls(codes_THW, is_video=True)


Part = str | int | np.ndarray | CodeGrid  # text, one token, token ids (L,), or an image or video


def interleave(text: str, grids: Sequence[CodeGrid]) -> list[Part]:
    """Replace each `<image>` in a text with the next image or video; without a mark, they all go first.

    Raises RefusedInput (`bad_images`) if the numbers of marks and grids differ.
    """
    pieces = text.split(IMAGE_MARK)
    if len(pieces) == 1:
        return [*grids, text]
    if len(pieces) - 1 != len(grids):
        raise RefusedInput("bad_images", f"{len(pieces) - 1} {IMAGE_MARK} marks in the text, {len(grids)} images given")
    parts: list[Part] = [pieces[0]]
    for grid, piece in zip(grids, pieces[1:]):
        parts += [grid, piece]
    return [part for part in parts if part != ""]
