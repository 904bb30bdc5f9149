"""Prompt templates as data: the fixed text around what a user writes.

| bare           | BOS caption                                                  Emu3's texts to images   |
| chat           | BOS You are a helpful assistant. USER: … . ASSISTANT:        then the answer and EOS  |
| stage1         | BOS image text                                               captioning in stage one  |

`prompting.py` says which of them a model family uses, and `renderer.py` turns them into token ids, for training and for
inference. The bodies of images and videos are in `shared/tokens/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import UsageError
from shared.tokens.grid_formats import VIDEO_FORMATS, GridFormat

# What comes before the body of an image or a video. `size` is filled in; the others are roles of control tokens.
GRID_HEADER = ("boi", "size", "img")

DEFAULT_QUESTION, DEFAULT_VIDEO_QUESTION = "Please describe the image.", "Please describe the video."


def default_question(is_video: bool) -> str:
    """Return the question to ask about an image or a video that comes without one."""
    return DEFAULT_VIDEO_QUESTION if is_video else DEFAULT_QUESTION


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """The system prompt, the text before every question, and the text between a question and its answer.

    Images go before the question if it does not say where, or after it without `images_first`. Upstream published a
    single turn with each system prompt; that later turns repeat `question_prefix` is our choice.
    """

    name: str
    system: str
    question_prefix: str
    question_suffix: str
    images_first: bool = True

    def opening(self, system: str | None = None) -> str:
        """Return the text before the first question, optionally with another system prompt."""
        return (self.system if system is None else system) + self.question_prefix

    def question_text(self, question: str, turn: int = 0, follows_grid: bool = False) -> str:
        """Return the unbroken run of text that contains a question.

        Turns count from 0. The first question continues the opening unless an image or a video separates the two.
        """
        before = self.question_prefix if turn else "" if follows_grid else self.opening()
        return before + question + self.question_suffix


BARE = ConversationTemplate("bare", "", "", "")
CHAT = ConversationTemplate("chat", "You are a helpful assistant.", " USER: ", ". ASSISTANT:")
STAGE1 = ConversationTemplate("stage1", "", "", "")


def video_format_named(name: str) -> GridFormat:
    """Look up a video format by name. Raises UsageError if the name is unknown."""
    if name not in VIDEO_FORMATS:
        raise UsageError(f"--video-template {name!r}: expected one of {', '.join(VIDEO_FORMATS)}")
    return VIDEO_FORMATS[name]
