"""Renders sequences to token ids, for training and for inference alike.

An image within a sequence is `BOI H*W IMG body`, a video `BOI T*H*W IMG body`: a header that carries the size as text,
then the body of visual tokens. Upstream never published its video format, so that one is chosen by name.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lm_stage.text.parts import CodeGrid, Part
from lm_stage.text.templates import CHAT, ConversationTemplate
from lm_stage.text.tokenizer import TextTokenizer
from shared.tokens.grid_formats import IMAGE, UNIVLA, GridFormat
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import grid_tokens


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
        return self.render([self.layout.bos, *caption, self.header(grid_format, frames, height, width)])

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
            size = self.encode(grid_format.size_text(frames, height, width))
            self._headers[key] = np.array([self.layout.boi, *size, self.layout.img], np.int32)
        return self._headers[key]

    def header_and_body(self, grid: CodeGrid) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of an image or a video: up to and including IMG, and after it up to EOI."""
        grid_format = self.format_of(grid.is_video)
        body = grid_tokens(grid.codes_THW, self.layout, grid_format)
        return self.header(grid_format, *grid.codes_THW.shape), body

    def format_of(self, is_video: bool) -> GridFormat:
        return self.video_format if is_video else IMAGE
