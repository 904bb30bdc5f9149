"""Renders the parts of a sequence (texts, control tokens, token ids, code grids) to token ids.

Training and inference use it alike; the templates are in `templates.py`.

An image within a sequence is `BOI H*W IMG body`, a video `BOI T*H*W IMG body`: a header that carries the size as text,
then the body of visual tokens. Upstream never published its video format, so that one is chosen by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.text.templates import CHAT, GENERATION_PROMPT, GRID_HEADER, ConversationTemplate
from lm_stage.text.tokenizer import TextTokenizer
from shared.errors import RefusedInput
from shared.tokens.grid_formats import IMAGE, UNIVLA, GridFormat
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import grid_tokens

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


class SequenceRenderer:
    """Renders with one text tokenizer, one token layout and one video format. All results are int32 (L,)."""

    def __init__(self, text_tokenizer: TextTokenizer, layout: TokenLayout, video_format: GridFormat = UNIVLA):
        self.text_tokenizer = text_tokenizer
        self.layout = layout
        self.video_format = video_format
        self._headers: dict[tuple[str, int, int, int], np.ndarray] = {}

    def generation_prompt(
        self, caption: Iterable[Part], grid_format: GridFormat, frames: int, height: int, width: int
    ) -> np.ndarray:
        """Return everything before the body of an image or a video of this size in codes; it ends with IMG."""
        header = self.header(grid_format, frames, height, width)
        return self.render(self._filled(GENERATION_PROMPT, caption=caption, header=[header]))

    def question_prompt(self, question: Iterable[Part], template: ConversationTemplate = CHAT) -> np.ndarray:
        """Return everything before the answer to a question that may contain images and videos."""
        return self.render([self.layout.bos, template.opening(), *question, template.question_suffix])

    def render(self, parts: Iterable[Part]) -> np.ndarray:
        """Return the token ids of the parts.

        Adjacent texts are joined before they are encoded, as if the sequence were one string.
        Raises ShapeError for codes outside the codebook.
        """
        joined: list[Part] = []
        for part in parts:
            if isinstance(part, str) and joined and isinstance(last := joined[-1], str):
                joined[-1] = last + part
            else:
                joined.append(part)
        return np.concatenate([self._part_ids(part) for part in joined])

    def _filled(self, template: Sequence[str], **parts: Iterable[Part]) -> list[Part]:
        """Replace each name in a template by the parts of this name, or else by the control token of this role."""
        return [part for name in template for part in (parts[name] if name in parts else [getattr(self.layout, name)])]

    def _part_ids(self, part: Part) -> np.ndarray:
        if isinstance(part, np.ndarray):
            return part
        if isinstance(part, str):
            return self.encode(part)
        if isinstance(part, CodeGrid):
            return np.concatenate(self.header_and_body(part))
        return np.array([part], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Return the token ids of ordinary text; the surface forms of control tokens stay text."""
        return np.array(self.text_tokenizer.encode(text) if text else [], np.int32)

    def header(self, grid_format: GridFormat, frames: int, height: int, width: int) -> np.ndarray:
        """Return BOI, the size in codes and IMG."""
        key = (grid_format.name, frames, height, width)
        if key not in self._headers:
            size = grid_format.size_text(frames, height, width)
            self._headers[key] = self.render(self._filled(GRID_HEADER, size=[size]))
        return self._headers[key]

    def header_and_body(self, grid: CodeGrid) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of an image or a video: up to and including IMG, and after it up to EOI."""
        grid_format = self.format_of(grid.is_video)
        body = grid_tokens(grid.codes_THW, self.layout, grid_format)
        return self.header(grid_format, *grid.codes_THW.shape), body

    def format_of(self, is_video: bool) -> GridFormat:
        return self.video_format if is_video else IMAGE
