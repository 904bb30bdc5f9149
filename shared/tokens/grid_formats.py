"""How a grid of codes is written in a token sequence: the grammar of an image and of a video.

    image:          row EOL row EOL … row EOL EOF EOI        a row is W visual tokens
    video, univla:  frame EOF frame EOF … frame EOF EOI      a frame is H·W visual tokens
    video, rows:    row EOL … row EOL EOF row EOL … EOF EOI  each frame as in an image

The tokens before them, `BOI size IMG`, are the header; these are the body.
"""

from __future__ import annotations

from dataclasses import dataclass


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
