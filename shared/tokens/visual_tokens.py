"""Code grids to token ids, by arithmetic, and the grammar of an image or a video in a token sequence.

    image:          row EOL row EOL … row EOL EOF EOI        a row is W visual tokens
    video, univla:  frame EOF frame EOF … frame EOF EOI      a frame is H·W visual tokens
    video, rows:    row EOL … row EOL EOF row EOL … EOF EOI  each frame as in an image

The tokens before them, `BOI size IMG`, are the header; these are the body. Shape suffixes: T frames, H W grid,
L sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shared.errors import ShapeError
from shared.tokens.layout import TokenLayout

VISUAL = -1  # in a body template: any visual token is allowed here


@dataclass(frozen=True, slots=True)
class GridFormat:
    """How a code grid is written as tokens. Every frame ends with EOF, the body with EOI.

    `size` is the text between BOI and IMG, in which T, H and W stand for the numbers. With `has_eol`, every row ends
    with EOL.
    """

    name: str
    size: str = "T*H*W"
    has_eol: bool = False

    def size_text(self, frames: int, height: int, width: int) -> str:
        return self.size.replace("T", str(frames)).replace("H", str(height)).replace("W", str(width))


# Upstream never published the format of Emu3's training videos. This is the one of BAAI's own UniVLA.
UNIVLA = GridFormat("univla")
# An unpublished alternative, for models that were trained with it.
ROWS = GridFormat("rows", has_eol=True)
# The published format of images, which are grids of one frame.
IMAGE = GridFormat("image", "H*W", has_eol=True)
VIDEO_FORMATS = {grid_format.name: grid_format for grid_format in (UNIVLA, ROWS)}


def grid_length(frames: int, height: int, width: int, grid_format: GridFormat) -> int:
    """Return the number of tokens in the body of a grid."""
    return frames * (height * (width + grid_format.has_eol) + 1) + 1


def grid_tokens(codes_THW: np.ndarray, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the body of a grid as int32 tokens (L,), from codes (T, H, W) in [0, K).

    Raises ShapeError for other codes.
    """
    codes_THW = checked_codes(codes_THW, 3, layout)
    frames, height, width = codes_THW.shape
    body = _zero_body(frames, height, width, layout, grid_format).copy()
    visual_THW = _rows_view(body, frames, height)[..., :width]
    np.add(visual_THW, codes_THW, out=visual_THW, casting="unsafe")  # the codes were checked, so int64 codes fit
    return body


@lru_cache(maxsize=256)
def _zero_body(frames: int, height: int, width: int, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the body of a grid whose codes are all 0."""
    template = body_template(frames, height, width, layout, grid_format)
    return np.where(template == VISUAL, np.int32(layout.first_visual_token), template)


def body_template(frames: int, height: int, width: int, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the grammar of a body, int32 (L,): the control tokens, and VISUAL where any visual token is allowed."""
    template = np.full(grid_length(frames, height, width, grid_format), VISUAL, np.int32)
    if grid_format.has_eol:
        _rows_view(template, frames, height)[..., -1] = layout.eol
    template[:-1].reshape(frames, -1)[:, -1] = layout.eof
    template[-1] = layout.eoi
    return template


def _rows_view(body_L: np.ndarray, frames: int, height: int) -> np.ndarray:
    """Return a view (T, H, W) of a body without EOF and EOI, (T, H, W + 1) if its rows end with EOL."""
    return body_L[:-1].reshape(frames, -1)[:, :-1].reshape(frames, height, -1)


def checked_codes(codes: np.ndarray, rank: int, layout: TokenLayout) -> np.ndarray:
    """Return the codes as an array. Raises ShapeError unless they are integers in [0, K) of this rank."""
    codes = np.asarray(codes)
    if codes.ndim != rank or codes.dtype.kind not in "iu" or not codes.size:
        raise ShapeError(f"codes: expected integers of rank {rank}, got {codes.dtype} {codes.shape}")
    if codes.max() >= layout.codebook_size or (codes.dtype.kind == "i" and codes.min() < 0):
        raise ShapeError(
            f"codes: expected values in [0, {layout.codebook_size}), got {codes.min()} to {codes.max()};"
            " check that they come from this model's vision tokenizer"
        )
    return codes
