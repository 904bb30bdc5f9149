"""How a grid of codes is written in a token sequence: the grammar of an image and of a video.

| name   | of        | size  | body                                                                              |
|---|---|---|---|
| image  | an image  | H*W   | row EOL row EOL … row EOL EOF EOI                                                 |
| emu3.5 | an image  | H*W   | row EOL row EOL … row EOI                                                         |
| univla | a video   | T*H*W | frame EOF frame EOF … frame EOF EOI                  a frame is H·W visual tokens  |
| rows   | a video   | T*H*W | row EOL … row EOL EOF row EOL … row EOL EOF EOI      each frame as in an image     |

A row is W visual tokens. The tokens before the body, `BOI size IMG`, are the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RowEnds(Enum):
    """Which rows of a frame end with EOL."""

    NONE = "none"
    ALL_BUT_LAST = "all but the last"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class GridFormat:
    """How a code grid is written as tokens. The body ends with EOI and, with `has_eof`, every frame with EOF.

    `size` is the text between BOI and IMG, in which T, H and W stand for the numbers. Without T, a grid is an image,
    which has one frame.
    """

    name: str
    size: str = "T*H*W"
    row_ends: RowEnds = RowEnds.NONE
    has_eof: bool = True

    @property
    def is_video(self) -> bool:
        return "T" in self.size

    def to_json(self) -> dict[str, str | bool]:
        """Return what settings record of a format of videos, in the form of version 0.1: all of these have EOF."""
        return {"name": self.name, "size": self.size, "has_eol": self.row_ends is not RowEnds.NONE}

    def size_text(self, frames: int, height: int, width: int) -> str:
        return self.size.replace("T", str(frames)).replace("H", str(height)).replace("W", str(width))

    def row_stride(self, width: int) -> int:
        """Return the number of tokens from the beginning of a row to that of the next row of its frame."""
        return width + (self.row_ends is not RowEnds.NONE)

    def frame_length(self, height: int, width: int) -> int:
        """Return the number of tokens of a frame."""
        return height * self.row_stride(width) - (self.row_ends is RowEnds.ALL_BUT_LAST) + self.has_eof


# The published format of Emu3's images.
IMAGE = GridFormat("image", "H*W", RowEnds.ALL)
# The published format of Emu3.5's images.
EMU35_IMAGE = GridFormat("emu3.5", "H*W", RowEnds.ALL_BUT_LAST, has_eof=False)
# Upstream never published the format of Emu3's training videos. This is the one of BAAI's own UniVLA.
UNIVLA = GridFormat("univla")
# An unpublished alternative, for models that were trained with it.
ROWS = GridFormat("rows", row_ends=RowEnds.ALL)
GRID_FORMATS = {grid_format.name: grid_format for grid_format in (IMAGE, EMU35_IMAGE, UNIVLA, ROWS)}
VIDEO_FORMATS = {name: grid_format for name, grid_format in GRID_FORMATS.items() if grid_format.is_video}


def grid_length(frames: int, height: int, width: int, grid_format: GridFormat) -> int:
    """Return the number of tokens in the body of a grid."""
    return frames * grid_format.frame_length(height, width) + 1
