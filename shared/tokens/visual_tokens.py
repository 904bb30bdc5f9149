"""Code grids to token ids and back, by arithmetic.

The header of a grid, `BOI size IMG`, comes before the body that is made and parsed here (see `grid_formats`). Shape
suffixes: T frames, H W grid, L sequence.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from shared.errors import ShapeError
from shared.tokens.grid_formats import GridFormat, RowEnds, grid_length
from shared.tokens.layout import TokenLayout

VISUAL = -1  # in a body template: any visual token is allowed here


def grid_tokens(codes_THW: np.ndarray, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the body of a grid as int32 tokens (L,), from codes (T, H, W) in [0, K).

    Raises ShapeError for other codes, and for more than one frame in a format of images.
    """
    codes_THW = checked_codes(codes_THW, 3, layout)
    frames, height, width = codes_THW.shape
    body = _zero_body(frames, height, width, layout, grid_format).copy()
    visual_THW = _codes_view(body, frames, height, width, grid_format)
    np.add(visual_THW, codes_THW, out=visual_THW, casting="unsafe")  # the codes were checked, so int64 codes fit
    return body


def grid_codes(
    body_L: np.ndarray, frames: int, height: int, width: int, layout: TokenLayout, grid_format: GridFormat
) -> np.ndarray:
    """Return the int32 codes (T, H, W) of the body of a grid: the inverse of `grid_tokens`.

    Raises ShapeError, naming the first token that the grammar does not allow, for any other sequence.
    """
    template = body_template(frames, height, width, layout, grid_format)
    where = f"body of a grid of {grid_format.size_text(frames, height, width)} codes (format {grid_format.name!r})"
    body_L = np.asarray(body_L)
    if body_L.dtype.kind not in "iu" or body_L.shape != template.shape:
        raise ShapeError(f"{where}: expected {template.size} token ids, got {body_L.dtype} {body_L.shape}")
    is_visual = (body_L >= layout.first_visual_token) & (body_L < layout.end_of_visual)
    is_wrong = np.where(template == VISUAL, ~is_visual, body_L != template)
    if is_wrong.any():
        first = int(np.argmax(is_wrong))
        raise ShapeError(
            f"{where}: token {first}: expected {_allowed(int(template[first]), layout)}, got id {int(body_L[first])};"
            f" {np.count_nonzero(is_wrong)} of {template.size} tokens do not match; the sequence is damaged or was"
            " written with another size or format"
        )
    body_L = body_L.astype(np.int32) - np.int32(layout.first_visual_token)
    return _codes_view(body_L, frames, height, width, grid_format).copy()


def _allowed(token: int, layout: TokenLayout) -> str:
    """Name what a body template allows at one position."""
    if token == VISUAL:
        return f"a visual token from {layout.first_visual_token} to {layout.end_of_visual - 1}"
    role = next(role for role, one in layout.control_ids.items() if one == token)
    return f"{role.upper()} ({token})"


@lru_cache(maxsize=256)
def _zero_body(frames: int, height: int, width: int, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the body of a grid whose codes are all 0."""
    template = body_template(frames, height, width, layout, grid_format)
    return np.where(template == VISUAL, np.int32(layout.first_visual_token), template)


def body_template(frames: int, height: int, width: int, layout: TokenLayout, grid_format: GridFormat) -> np.ndarray:
    """Return the grammar of a body, int32 (L,): the control tokens, and VISUAL where any visual token is allowed.

    Raises ShapeError for an empty grid, and for more than one frame in a format of images.
    """
    if min(frames, height, width) < 1:
        raise ShapeError(f"grid of {frames} × {height} × {width} codes: expected at least one code along each axis")
    if frames != 1 and not grid_format.is_video:
        raise ShapeError(f"format {grid_format.name!r}: expected one frame, because it is one of images; got {frames}")
    template = np.full(grid_length(frames, height, width, grid_format), layout.eoi, np.int32)
    frames_TL = template[:-1].reshape(frames, -1)
    if grid_format.row_ends is not RowEnds.NONE:
        frames_TL[:] = layout.eol
    if grid_format.has_eof:
        frames_TL[:, -1] = layout.eof
    _codes_view(template, frames, height, width, grid_format)[:] = VISUAL
    return template


def _codes_view(body_L: np.ndarray, frames: int, height: int, width: int, grid_format: GridFormat) -> np.ndarray:
    """Return a view (T, H, W) of the visual tokens of a body, which is contiguous."""
    steps = grid_format.frame_length(height, width), grid_format.row_stride(width), 1
    strides = tuple(step * body_L.itemsize for step in steps)
    return np.ndarray((frames, height, width), body_L.dtype, body_L.data, strides=strides)


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
