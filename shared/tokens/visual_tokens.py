"""Code grids to token ids, by arithmetic.

The header of a grid, `BOI size IMG`, comes before the body that is made here (see `grid_formats`). Shape suffixes:
T frames, H W grid, L sequence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from shared.errors import ShapeError
from shared.tokens.grid_formats import GridFormat, grid_length
from shared.tokens.layout import TokenLayout

VISUAL = -1  # in a body template: any visual token is allowed here


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
