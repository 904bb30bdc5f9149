"""Renders the parts of a sequence (texts, control tokens, token ids, code grids) to token ids.

Training and inference use it alike. The templates are in `templates.py`, and `prompting.py` says which of them a model
family uses.

An image within a sequence is `BOI H*W IMG body`, a video `BOI T*H*W IMG body`: a header that carries the size as text,
then the body of visual tokens. Upstream never published its video format, so that one is chosen by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lm_stage.text.prompting import PLAIN, Prompting
from lm_stage.text.templates import GRID_HEADER, ConversationTemplate
from lm_stage.text.tokenizer import TextTokenizer
from shared.errors import RefusedInput
from shared.tokens.grid_formats import UNIVLA, GridFormat
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


Image = TypeVar("Image")  # an image or a video, or its key


def interleave(text: str, images: Sequence[Image], images_first: bool = True) -> list[str | Image]:
    """Replace each `<image>` in a text with the next image or video; without a mark, they all go first, or else last.

    Raises RefusedInput (`bad_images`) if the numbers of marks and images differ.
    """
    pieces = text.split(IMAGE_MARK)
    if len(pieces) == 1:
        return [*images, text] if images_first else [text, *images]
    if len(pieces) - 1 != len(images):
        raise RefusedInput(
            "bad_images", f"{len(pieces) - 1} {IMAGE_MARK} marks in the text, {len(images)} images given"
        )
    parts: list[str | Image] = [pieces[0]]
    for image, piece in zip(images, pieces[1:]):
        parts += [image, piece]
    return [part for part in parts if not isinstance(part, str) or part]


class SequenceRenderer:
    """Renders with one text tokenizer, token layout, video format and prompting. All results are int32 (L,)."""

    def __init__(
        self,
        text_tokenizer: TextTokenizer,
        layout: TokenLayout,
        video_format: GridFormat = UNIVLA,
        prompting: Prompting = PLAIN,
    ):
        self.text_tokenizer = text_tokenizer
        self.layout = layout
        self.video_format = video_format
        self.prompting = prompting
        self._headers: dict[tuple[str, int, int, int], np.ndarray] = {}

    def generation_prompt(
        self,
        caption: Iterable[Part],
        grid_format: GridFormat,
        frames: int,
        height: int,
        width: int,
        template: ConversationTemplate | None = None,
    ) -> np.ndarray:
        """Return everything before the body of an image or a video of this size in codes; it ends with IMG.

        Without a template, that of an image from a text.
        """
        prompt = self.question_prompt(caption, template or self.prompting.text_to_image)
        return np.concatenate((prompt, self.header(grid_format, frames, height, width)))

    def question_prompt(self, question: Iterable[Part], template: ConversationTemplate | None = None) -> np.ndarray:
        """Return everything before the answer to a question that may contain images and videos."""
        template = template or self.prompting.chat
        begin = self.tokens(self.prompting.answer_begin)
        return self.render([self.layout.bos, template.opening(), *question, template.question_suffix, begin])

    def tokens(self, roles: Sequence[str]) -> np.ndarray:
        """Return the control tokens of some roles."""
        return np.array([getattr(self.layout, role) for role in roles], np.int32)

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
            size = grid_format.size_text(frames, height, width)
            parts = [size if name == "size" else getattr(self.layout, name) for name in GRID_HEADER]
            self._headers[key] = self.render(parts)
        return self._headers[key]

    def header_and_body(self, grid: CodeGrid) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of an image or a video: up to and including IMG, and after it up to EOI."""
        grid_format = self.format_of(grid.is_video)
        body = grid_tokens(grid.codes_THW, self.layout, grid_format)
        return self.header(grid_format, *grid.codes_THW.shape), body

    def format_of(self, is_video: bool) -> GridFormat:
        return self.video_format if is_video else self.prompting.image_format
