"""Code grids ⇄ token ids, by arithmetic, and the grammar of an image or a video in a sequence.

    image:          row EOL row EOL … row EOL EOF EOI        a row is w visual tokens
    video, univla:  frame EOF frame EOF … frame EOF EOI      a frame is h·w visual tokens
    video, rows:    row EOL … row EOL EOF row EOL … EOF EOI  every frame as the body of an image

Shape suffixes: T frames, H W grid, L sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from shared.errors import ShapeError
from shared.tokens.layout import TokenLayout

VISUAL = -1  # stands in a template where any visual token may


@dataclass(frozen=True, slots=True)
class VideoTemplate:
    """How a video stands in a sequence: every frame ends with EOF, the video with EOI.

    `size` is the text between BOI and IMG, with T, H and W for the numbers; with `has_eol` every row ends with EOL.
    """

    name: str
    size: str = "T*H*W"
    has_eol: bool = False

    def size_text(self, frames: int, height: int, width: int) -> str:
        """What stands between BOI and IMG."""
        return self.size.replace("T", str(frames)).replace("H", str(height)).replace("W", str(width))


# Upstream never published how Emu3 was trained on video. This is the form of BAAI's own UniVLA.
UNIVLA = VideoTemplate("univla")
# The other form near at hand, for models that were trained so: nobody published it.
ROWS = VideoTemplate("rows", has_eol=True)
# An image is one frame in a form of its own, which upstream did publish.
IMAGE = VideoTemplate("image", "H*W", has_eol=True)
VIDEO_TEMPLATES = {template.name: template for template in (UNIVLA, ROWS)}


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
    return video_length(1, height, width, IMAGE)


def video_length(frames: int, height: int, width: int, video: VideoTemplate = UNIVLA) -> int:
    """Tokens of a video body after IMG: frames with their EOF, EOI."""
    return frames * (height * (width + video.has_eol) + 1) + 1


def image_tokens(codes_HW: np.ndarray, layout: TokenLayout) -> np.ndarray:
    """int32 tokens of an image body, from codes in [0, K) of shape (h, w). Raises ShapeError for other codes."""
    return _body(checked_codes(codes_HW, 2, layout)[None], layout, IMAGE)


def video_tokens(codes_THW: np.ndarray, layout: TokenLayout, video: VideoTemplate = UNIVLA) -> np.ndarray:
    """int32 tokens of a video body, from codes in [0, K) of shape (t, h, w). Raises ShapeError for other codes."""
    return _body(checked_codes(codes_THW, 3, layout), layout, video)


def _body(codes_THW: np.ndarray, layout: TokenLayout, video: VideoTemplate) -> np.ndarray:
    frames, height, width = codes_THW.shape
    body = _body_of_zeros(frames, height, width, layout, video).copy()
    places_THW = _rows(body, frames, height)[..., :width]
    np.add(places_THW, codes_THW, out=places_THW, casting="unsafe")  # checked: int64 codes fit
    return body


@lru_cache(maxsize=256)
def _body_of_zeros(frames: int, height: int, width: int, layout: TokenLayout, video: VideoTemplate) -> np.ndarray:
    template = body_template(frames, height, width, layout, video)
    return np.where(template == VISUAL, np.int32(layout.first_visual_token), template)


def body_template(
    frames: int, height: int, width: int, layout: TokenLayout, video: VideoTemplate = UNIVLA
) -> np.ndarray:
    """The grammar of the body of an image or a video: forced ids in their places, else VISUAL; int32 (L,)."""
    template = np.full(video_length(frames, height, width, video), VISUAL, np.int32)
    if video.has_eol:
        _rows(template, frames, height)[..., -1] = layout.eol
    template[:-1].reshape(frames, -1)[:, -1] = layout.eof
    template[-1] = layout.eoi
    return template


def _rows(body_L: np.ndarray, frames: int, height: int) -> np.ndarray:
    """View (T, H, W) of a body without EOF and EOI; (T, H, W + 1) if its rows have EOL."""
    return body_L[:-1].reshape(frames, -1)[:, :-1].reshape(frames, height, -1)


def parse_image(tokens_L: np.ndarray, height: int, width: int, layout: TokenLayout) -> ParsedGrid:
    """Reads an image body; never raises for what a model may have written."""
    return parse_video(tokens_L, 1, height, width, layout, IMAGE)


def parse_video(
    tokens_L: np.ndarray, frames: int, height: int, width: int, layout: TokenLayout, video: VideoTemplate = UNIVLA
) -> ParsedGrid:
    """Reads a video body; never raises for what a model may have written."""
    template = body_template(frames, height, width, layout, video)
    tokens = np.asarray(tokens_L, np.int64)[: len(template)]
    visual = template == VISUAL
    is_visual = (tokens >= layout.first_visual_token) & (tokens < layout.end_of_visual)
    fits = np.where(visual[: len(tokens)], is_visual, tokens == template[: len(tokens)])
    if not fits.all():
        place = int(np.argmin(fits))
        expected = "a visual token" if visual[place] else f"token {template[place]}"
        line = _line(place, frames, height, width, video)
        return ParsedGrid("bad", None, place, f"{line}, offset {place}: expected {expected}, got token {tokens[place]}")
    if len(tokens) < len(template):
        return ParsedGrid("truncated", None, len(tokens), f"{len(tokens)} of {len(template)} tokens")
    codes = (tokens[visual] - layout.first_visual_token).astype(np.uint16)
    return ParsedGrid("valid", codes.reshape(frames, height, width), len(template))


def _line(place: int, frames: int, height: int, width: int, video: VideoTemplate) -> str:
    if video == IMAGE:
        return f"row {min(place // (width + 1), height)}"
    return f"frame {min(place // (height * (width + video.has_eol) + 1), frames)}"


def checked_codes(codes: np.ndarray, rank: int, layout: TokenLayout) -> np.ndarray:
    """The codes as an array. Raises ShapeError if they are no integers in [0, K) of this rank."""
    codes = np.asarray(codes)
    if codes.ndim != rank or codes.dtype.kind not in "iu" or not codes.size:
        raise ShapeError(f"codes: expected integers of rank {rank}, got {codes.dtype} {codes.shape}")
    if codes.max() >= layout.codebook_size or (codes.dtype.kind == "i" and codes.min() < 0):
        raise ShapeError(
            f"codes: expected values in [0, {layout.codebook_size}), got {codes.min()} to {codes.max()}:"
            " were they made by another vision tokenizer?"
        )
    return codes
