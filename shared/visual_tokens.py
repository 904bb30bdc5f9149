"""Code grids ⇄ token ids, by arithmetic, and the grammar of an image or a video in a sequence.

    image:  row EOL row EOL … row EOL EOF EOI        a row is w visual tokens
    video:  frame EOF frame EOF … frame EOF EOI      a frame is h·w visual tokens (as BAAI's UniVLA; never
                                                     published for Emu3 itself)

Shape suffixes: T frames, H W grid, L sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared.errors import ShapeError
from shared.layout import TokenLayout


@dataclass(frozen=True, slots=True)
class ParsedGrid:
    """What a body of tokens holds: `status` is valid, truncated or bad; `codes_THW` only if valid.

    `consumed` counts the tokens read, up to and with the last that fits; `error` names the first that does not.
    """

    status: str
    codes_THW: np.ndarray | None
    consumed: int
    error: str | None = None


def image_length(height: int, width: int) -> int:
    """Tokens of an image body after IMG: rows with their EOL, EOF, EOI."""
    return (width + 1) * height + 2


def video_length(frames: int, height: int, width: int) -> int:
    """Tokens of a video body after IMG: frames with their EOF, EOI."""
    return frames * (height * width + 1) + 1


def image_tokens(codes_HW: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """int32 tokens of an image body, from codes in [0, K) of shape (h, w). Raises ShapeError for other codes."""
    codes = _checked(codes_HW, 2, layout)
    height, width = codes.shape
    body = np.empty(image_length(height, width), np.int32)
    rows = body[:-2].reshape(height, width + 1)
    rows[:, :width] = codes
    rows[:, :width] += layout.first_visual_token
    rows[:, width] = layout.eol
    body[-2:] = layout.eof, layout.eoi
    return body


def video_tokens(codes_THW: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """int32 tokens of a video body, from codes in [0, K) of shape (t, h, w). Raises ShapeError for other codes."""
    codes = _checked(codes_THW, 3, layout)
    frames = len(codes)
    body = np.empty(video_length(*codes.shape), np.int32)
    rows = body[:-1].reshape(frames, -1)
    rows[:, :-1] = codes.reshape(frames, -1)
    rows[:, :-1] += layout.first_visual_token
    rows[:, -1] = layout.eof
    body[-1] = layout.eoi
    return body


def parse_image(tokens_L: np.ndarray, height: int, width: int, layout: TokenLayout) -> ParsedGrid:
    """Reads an image body; never raises for what a model may have written."""
    return _parse(tokens_L, 1, height, width, image_template(height, width, layout), layout)


def parse_video(tokens_L: np.ndarray, frames: int, height: int, width: int, layout: TokenLayout) -> ParsedGrid:
    """Reads a video body; never raises for what a model may have written."""
    return _parse(tokens_L, frames, height, width, video_template(frames, height, width, layout), layout)


VISUAL = -1  # stands in a template where any visual token may


def image_template(height: int, width: int, layout: TokenLayout) -> np.ndarray:
    """The grammar of an image body: forced ids in their places, VISUAL everywhere else; int32 (L,)."""
    template = np.full(image_length(height, width), VISUAL, np.int32)
    template[:-2].reshape(height, width + 1)[:, width] = layout.eol
    template[-2:] = layout.eof, layout.eoi
    return template


def video_template(frames: int, height: int, width: int, layout: TokenLayout) -> np.ndarray:
    """The grammar of a video body: forced ids in their places, VISUAL everywhere else; int32 (L,)."""
    template = np.full(video_length(frames, height, width), VISUAL, np.int32)
    template[:-1].reshape(frames, -1)[:, -1] = layout.eof
    template[-1] = layout.eoi
    return template


def _parse(
    tokens_L: np.ndarray, frames: int, height: int, width: int, template: np.ndarray, layout: TokenLayout
) -> ParsedGrid:
    tokens = np.asarray(tokens_L, np.int64)[: len(template)]
    visual = template == VISUAL
    is_visual = (tokens >= layout.first_visual_token) & (tokens < layout.end_of_visual)
    fits = np.where(visual[: len(tokens)], is_visual, tokens == template[: len(tokens)])
    if not fits.all():
        place = int(np.argmin(fits))
        return ParsedGrid("bad", None, place, _misfit(tokens[place], place, template, frames, height, width))
    if len(tokens) < len(template):
        return ParsedGrid("truncated", None, len(tokens), f"{len(tokens)} of {len(template)} tokens")
    codes = (tokens[visual] - layout.first_visual_token).astype(np.uint16)
    return ParsedGrid("valid", codes.reshape(frames, height, width), len(template))


def _misfit(found: np.integer, place: int, template: np.ndarray, frames: int, height: int, width: int) -> str:
    expected = "a visual token" if template[place] == VISUAL else f"token {template[place]}"
    if frames == 1:
        line = f"row {min(place // (width + 1), height)}"
    else:
        line = f"frame {min(place // (height * width + 1), frames)}"
    return f"{line}, offset {place}: expected {expected}, got token {found}"


def _checked(codes: np.ndarray, rank: int, layout: TokenLayout) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != rank or codes.dtype.kind not in "iu" or not codes.size:
        raise ShapeError(f"codes: expected integers of rank {rank}, got {codes.dtype} {codes.shape}")
    if int(codes.max()) >= layout.codebook_size or int(codes.min()) < 0:
        raise ShapeError(
            f"codes: expected values in [0, {layout.codebook_size}), got {codes.min()} to {codes.max()}:"
            " were they made by another vision tokenizer?"
        )
    return codes
