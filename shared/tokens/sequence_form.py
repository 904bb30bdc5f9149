"""The form of a training sequence of one caption and its image or video, as far as its length depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.tokens.grid_formats import IMAGE, UNIVLA, GridFormat, grid_length


@dataclass(frozen=True, slots=True)
class SequenceForm:
    """What a sequence has besides the caption and the codes; the values are Emu3's unless they are given.

    `control_tokens` counts those outside of the body of an image or a video: for Emu3 BOS, BOI, IMG and EOS.
    `template` is the text around the caption.
    """

    image_format: GridFormat = IMAGE
    video_format: GridFormat = UNIVLA
    control_tokens: int = 4
    template: str = ""

    def length(self, is_video: bool, frames: int, height: int, width: int) -> int:
        """Return the number of tokens for a grid of this size in codes, without those of caption and template.

        The size, which is text, has one token for each character.
        """
        grid_format = self.video_format if is_video else self.image_format
        size = grid_format.size_text(frames, height, width)
        return self.control_tokens + len(size) + grid_length(frames, height, width, grid_format)
