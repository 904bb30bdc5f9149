"""Sequence templates: text and images in the order a model was trained on them.

| text to image    | BOS text BOI H*W IMG                              then the body and EOS               |
| understanding    | BOS You are a helpful assistant. USER: … ASSISTANT:   then the answer and EOS         |
| stage1           | BOS image text                                     captioning of the first stage      |
| text to video    | BOS text BOI T*H*W IMG                            then the body and EOS               |
| an image within  | BOI H*W IMG body (EOL after every row, EOF, EOI)                                       |
| a video within   | BOI T*H*W IMG body, in a form chosen by name: upstream never published its own         |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.text.tokenizer import TextTokenizer
from shared.errors import RefusedInput, UsageError
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import IMAGE, UNIVLA, VIDEO_TEMPLATES, VideoTemplate, image_tokens, video_tokens

IMAGE_MARK = "<image>"
UNDERSTANDING_TEMPLATES = ("chat", "stage1")
CHAT_BEFORE, CHAT_AFTER = "You are a helpful assistant. USER: ", ". ASSISTANT:"
DEFAULT_QUESTION, DEFAULT_VIDEO_QUESTION = "Please describe the image.", "Please describe the video."

# What upstream adds to every text-to-image prompt, and its negative prompt.
EMU3_SUFFIX = " masterpiece, film grained, best quality."
EMU3_NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality,"
    " low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)


def default_question(is_video: bool) -> str:
    """The question about an image or a video that has none."""
    return DEFAULT_VIDEO_QUESTION if is_video else DEFAULT_QUESTION


def chat_opening(system: str) -> str:
    """The text before the first question, with a system prompt in place of the published one."""
    return f"{system} USER: "


@dataclass(frozen=True, slots=True)
class Clip:
    """A video within a sequence: codes (T, H, W)."""

    codes_THW: np.ndarray


Visual = np.ndarray | Clip  # codes (H, W) of an image, or a clip
Part = str | int | Visual  # text, a control token, or what is seen


def chosen_video_template(name: str) -> VideoTemplate:
    """Raises UsageError if there is none of this name."""
    if name not in VIDEO_TEMPLATES:
        raise UsageError(f"--video-template {name!r}: expected one of {', '.join(VIDEO_TEMPLATES)}")
    return VIDEO_TEMPLATES[name]


class Templates:
    """Renders templates to token ids with one text tokenizer, one token layout and one form of videos."""

    def __init__(self, text_tokenizer: TextTokenizer, layout: TokenLayout, video: VideoTemplate = UNIVLA):
        self.text_tokenizer = text_tokenizer
        self.layout = layout
        self.video = video

    def image_prompt(self, parts: Iterable[Part], height: int, width: int) -> list[int]:
        """What stands before the body of an image of height × width codes, up to and with IMG."""
        return self._render([self.layout.bos, *parts, *self._opening(IMAGE, 1, height, width)])

    def video_prompt(self, parts: Iterable[Part], frames: int, height: int, width: int) -> list[int]:
        """What stands before the body of a video of frames × height × width codes, up to and with IMG."""
        return self._render([self.layout.bos, *parts, *self._opening(self.video, frames, height, width)])

    def understanding_prompt(self, parts: Sequence[Part], template: str = "chat") -> list[int]:
        """What stands before an answer about `parts`."""
        if template == "stage1":
            return self._render([self.layout.bos, *parts])
        return self._render([self.layout.bos, CHAT_BEFORE, *parts, CHAT_AFTER])

    def _opening(self, template: VideoTemplate, frames: int, height: int, width: int) -> list[Part]:
        return [self.layout.boi, template.size_text(frames, height, width), self.layout.img]

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
            if isinstance(part, Clip):
                ids += self._render(self._opening(self.video, *part.codes_THW.shape))
                ids += video_tokens(part.codes_THW, self.layout, self.video).tolist()
            elif isinstance(part, np.ndarray):
                ids += self._render(self._opening(IMAGE, 1, *part.shape)) + image_tokens(part, self.layout).tolist()
            elif part >= 0:
                ids.append(part)
        return ids


def interleave(text: str, images: Sequence[Visual]) -> list[Part]:
    """Text with each `<image>` replaced by the next image or clip; they go first if there is no mark.

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
