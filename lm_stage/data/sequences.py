"""A sample of a dataset as a training sequence: token ids, and which of them the loss is over.

| image       | BOS caption BOI H*W IMG body EOS      loss: the body and EOS, or its visual tokens only               |
| video       | BOS caption BOI T*H*W IMG body EOS    the same                                                        |
| understand  | BOS … USER: image question . ASSISTANT: answer EOS      loss: the answer and EOS                      |
|             | then USER: question . ASSISTANT: answer EOS for every further turn      loss: all answers, each EOS   |
| text        | BOS text EOS, or question and answer without an image   loss: the text, or the answer, and EOS        |

Prompts are never supervised, images and videos within a prompt neither. The published template has one turn only;
that each answer ends with EOS is our choice: so a turn ends in training as it does in generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.text.templates import CHAT_AFTER, CHAT_BEFORE, Clip, Visual
from lm_stage.text.tokenizer import TextTokenizer
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import (
    IMAGE,
    UNIVLA,
    VISUAL,
    VideoTemplate,
    body_template,
    image_tokens,
    video_length,
    video_tokens,
)

TASKS = ("image", "video", "understand", "text")
LOSSES = ("after_prompt", "visual", "text")
CHAT_AGAIN = " USER: "  # before the question of a further turn


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """int32 token ids (L,) and float32 weights (L,): the weight of the loss of predicting each token."""

    token_ids: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of a supervised token, by what it is. `over` leaves out the rest: after_prompt leaves nothing out."""

    over: str = "after_prompt"
    visual: float = 1.0

    @property
    def of_visual(self) -> np.float32:
        return np.float32(0.0 if self.over == "text" else self.visual)

    @property
    def of_other(self) -> np.float32:
        """Of text and control tokens."""
        return np.float32(0.0 if self.over == "visual" else 1.0)


@dataclass(frozen=True, slots=True)
class SizeParts:
    """What is the same for every image or clip of one size: its opening, and the weights of its body if supervised."""

    opening: np.ndarray
    body_weights: np.ndarray


def question_text(question: str, turn: int, has_visual: bool) -> str:
    """A question and the template around it that is one text with it, as templates.py has it; turns count from 0."""
    before = CHAT_AGAIN if turn else "" if has_visual else CHAT_BEFORE
    return before + question + CHAT_AFTER


class SequenceBuilder:
    """Builds sequences of one text tokenizer and token layout; what stands around a sample is encoded once."""

    def __init__(
        self, text_tokenizer: TextTokenizer, layout: TokenLayout, loss: LossWeights, video: VideoTemplate = UNIVLA
    ):
        self.text_tokenizer = text_tokenizer
        self.layout = layout
        self.loss = loss
        self.video_template = video
        self.before = self.encode(CHAT_BEFORE)
        self.bos, self.eos = np.array([layout.bos], np.int32), np.array([layout.eos], np.int32)
        self._sizes: dict[tuple[str, int, int, int], SizeParts] = {}

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.text_tokenizer.encode(text), np.int32)

    def image_length(self, height: int, width: int) -> int:
        """Tokens of an image with its opening."""
        return len(self._of_size(IMAGE, 1, height, width).opening) + video_length(1, height, width, IMAGE)

    def video_length(self, frames: int, height: int, width: int) -> int:
        """Tokens of a video with its opening."""
        template = self.video_template
        opening = self._of_size(template, frames, height, width).opening
        return len(opening) + video_length(frames, height, width, template)

    def captioned(self, caption_ids: np.ndarray, visual: Visual) -> TrainingSequence:
        """Caption to image or video; an empty caption trains the unconditional model that guidance needs."""
        size, body = self._visual(visual)
        token_ids = np.concatenate((self.bos, caption_ids, size.opening, body, self.eos))
        weights = np.zeros(len(token_ids), np.float32)
        weights[-1 - len(body) : -1] = size.body_weights
        weights[-1] = self.loss.of_other
        return TrainingSequence(token_ids, weights)

    def conversation(
        self,
        turns: Sequence[tuple[np.ndarray, np.ndarray]],
        visual: Visual | None,
        opening_ids: np.ndarray | None = None,
    ) -> TrainingSequence:
        """Questions (`question_text`) and answers about an image, a clip or nothing; the loss is over all answers.

        `opening_ids` replace the published text before an image or clip: a `chat_opening` with another system prompt.
        """
        parts = [self.bos]
        if visual is not None:
            size, body = self._visual(visual)
            parts += [self.before if opening_ids is None else opening_ids, size.opening, body]
        weights = [np.zeros(sum(map(len, parts)), np.float32)]
        for asked_ids, answer_ids in turns:
            parts += [asked_ids, answer_ids, self.eos]
            weights += [np.zeros(len(asked_ids), np.float32), self._other_weights(len(answer_ids) + 1)]
        return TrainingSequence(np.concatenate(parts), np.concatenate(weights))

    def text(self, text_ids: np.ndarray) -> TrainingSequence:
        token_ids = np.concatenate((self.bos, text_ids, self.eos))
        weights = self._other_weights(len(token_ids))
        weights[0] = 0
        return TrainingSequence(token_ids, weights)

    def _other_weights(self, count: int) -> np.ndarray:
        return np.full(count, self.loss.of_other)

    def _visual(self, visual: Visual) -> tuple[SizeParts, np.ndarray]:
        """What goes with the size of an image or a clip, and the tokens of its body."""
        if isinstance(visual, Clip):
            codes_THW, template = visual.codes_THW, self.video_template
            return self._of_size(template, *codes_THW.shape), video_tokens(codes_THW, self.layout, template)
        return self._of_size(IMAGE, 1, *visual.shape), image_tokens(visual, self.layout)

    def _of_size(self, template: VideoTemplate, frames: int, height: int, width: int) -> SizeParts:
        key = (template.name, frames, height, width)
        if key not in self._sizes:
            size = self.encode(template.size_text(frames, height, width))
            opening = np.array([self.layout.boi, *size, self.layout.img], np.int32)
            is_visual = body_template(frames, height, width, self.layout, template) == VISUAL
            self._sizes[key] = SizeParts(opening, np.where(is_visual, self.loss.of_visual, self.loss.of_other))
        return self._sizes[key]
