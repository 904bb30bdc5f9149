"""Sequence templates: text and images in the order a model was trained on them.

| text to image    | BOS text BOI H*W IMG                              then the body and EOS               |
| understanding    | BOS You are a helpful assistant. USER: … ASSISTANT:   then the answer and EOS         |
| stage1           | BOS image text                                     captioning of the first stage      |
| an image within  | BOI H*W IMG body (EOL after every row, EOF, EOI)                                       |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lm_stage.text_tokenizer import TextTokenizer
from shared.errors import RefusedInput
from shared.layout import TokenLayout
from shared.visual_tokens import image_tokens

IMAGE_MARK = "<image>"
UNDERSTANDING_TEMPLATES = ("chat", "stage1")
CHAT_BEFORE, CHAT_AFTER = "You are a helpful assistant. USER: ", ". ASSISTANT:"

# What upstream adds to every text-to-image prompt, and its negative prompt.
EMU3_SUFFIX = " masterpiece, film grained, best quality."
EMU3_NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality,"
    " low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)

Part = str | int | np.ndarray  # text, a control token, or the codes (H, W) of an image


class Templates:
    """Renders templates to token ids with one text tokenizer and one token layout."""

    def __init__(self, text_tokenizer: TextTokenizer, layout: TokenLayout):
        self.text_tokenizer = text_tokenizer
        self.layout = layout

    def image_prompt(self, parts: Iterable[Part], height: int, width: int) -> list[int]:
        """What stands before the body of an image of height × width codes, up to and with IMG."""
        return self._render([self.layout.bos, *parts, *self._opening(height, width)])

    def understanding_prompt(self, parts: Sequence[Part], template: str = "chat") -> list[int]:
        """What stands before an answer about `parts`."""
        if template == "stage1":
            return self._render([self.layout.bos, *parts])
        return self._render([self.layout.bos, CHAT_BEFORE, *parts, CHAT_AFTER])

    def _opening(self, height: int, width: int) -> list[Part]:
        return [self.layout.boi, f"{height}*{width}", self.layout.img]

    def _render(self, parts: Sequence[Part]) -> list[int]:
        """Neighbouring texts are joined before they are encoded, as if the sequence were one string."""
        ids: list[int] = []
        text = ""
        for part in [*parts, -1]:
            if isinstance(part, str):
                text += part
                continue
            if text:
                ids += self.text_tokenizer.encode(text)
                text = ""
            if isinstance(part, np.ndarray):
                ids += self._render(self._opening(*part.shape)) + image_tokens(part, self.layout).tolist()
            elif part >= 0:
                ids.append(part)
        return ids


def interleave(text: str, images: Sequence[np.ndarray]) -> list[Part]:
    """Text with each `<image>` replaced by the codes of the next image; images go first if there is no mark.

    Raises RefusedInput if marks and images differ in number.
    """
    pieces = text.split(IMAGE_MARK)
    if len(pieces) == 1:
        return [*images, text]
    if len(pieces) - 1 != len(images):
        raise RefusedInput(
            "bad_images", f"{len(pieces) - 1} {IMAGE_MARK} marks in the text, {len(images)} images given"
        )
    parts: list[Part] = [pieces[0]]
    for image, piece in zip(images, pieces[1:]):
        parts += [image, piece]
    return [part for part in parts if not (isinstance(part, str) and not part)]
