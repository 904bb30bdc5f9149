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

from lm_stage.templates import CHAT_AFTER, CHAT_BEFORE, Clip, Visual
from lm_stage.text_tokenizer import TextTokenizer
from shared.layout import TokenLayout
from shared.visual_tokens import IMAGE, UNIVLA, VideoTemplate, image_tokens, video_length, video_tokens

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

    def of(self, token_ids: np.ndarray, layout: TokenLayout) -> np.ndarray:
        """float32 weights of supervised tokens."""
        is_visual = (token_ids >= layout.first_visual_token) & (token_ids < layout.end_of_visual)
        visual, other = (0.0 if self.over == "text" else self.visual), (0.0 if self.over == "visual" else 1.0)
        return np.where(is_visual, np.float32(visual), np.float32(other))


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
        self._openings: dict[tuple[str, int, int, int], np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.text_tokenizer.encode(text), np.int32)

    def image_length(self, height: int, width: int) -> int:
        """Tokens of an image with its opening."""
        return len(self._opening(IMAGE, 1, height, width)) + video_length(1, height, width, IMAGE)

    def video_length(self, frames: int, height: int, width: int) -> int:
        """Tokens of a video with its opening."""
        template = self.video_template
        return len(self._opening(template, frames, height, width)) + video_length(frames, height, width, template)

    def image(self, caption_ids: np.ndarray, codes_HW: np.ndarray) -> TrainingSequence:
        """Caption to image; an empty caption trains the unconditional model that guidance needs."""
        return self._captioned(caption_ids, codes_HW)

    def video(self, caption_ids: np.ndarray, codes_THW: np.ndarray) -> TrainingSequence:
        """Caption to video."""
        return self._captioned(caption_ids, Clip(codes_THW))

    def _captioned(self, caption_ids: np.ndarray, visual: Visual) -> TrainingSequence:
        opening, body = self._visual(visual)
        token_ids = np.concatenate(([self.layout.bos], caption_ids, opening, body, [self.layout.eos])).astype(np.int32)
        return self._supervised(token_ids, [(len(token_ids) - len(body) - 1, len(token_ids))])

    def asked(self, question: str, with_image: bool) -> np.ndarray:
        """Ids of a question and the template around it that is one text with it, as templates.py renders it."""
        return self.encode(question + CHAT_AFTER if with_image else CHAT_BEFORE + question + CHAT_AFTER)

    def asked_again(self, question: str) -> np.ndarray:
        """Ids of the question of a further turn."""
        return self.encode(CHAT_AGAIN + question + CHAT_AFTER)

    def understand(self, asked_ids: np.ndarray, answer_ids: np.ndarray, visual: Visual | None) -> TrainingSequence:
        """Question (from `asked`) and answer about an image or a clip, or about nothing but text."""
        return self.conversation([(asked_ids, answer_ids)], visual)

    def conversation(self, turns: Sequence[tuple[np.ndarray, np.ndarray]], visual: Visual | None) -> TrainingSequence:
        """Questions (the first from `asked`, others from `asked_again`) and answers; the loss is over all answers."""
        parts: list[np.ndarray] = [np.array([self.layout.bos])]
        if visual is not None:
            parts += [self.before, *self._visual(visual)]
        length, answers = sum(map(len, parts)), []
        for asked_ids, answer_ids in turns:
            parts += [asked_ids, answer_ids, np.array([self.layout.eos])]
            begin, length = length + len(asked_ids), length + len(asked_ids) + len(answer_ids) + 1
            answers.append((begin, length))
        return self._supervised(np.concatenate(parts).astype(np.int32), answers)

    def text(self, text_ids: np.ndarray) -> TrainingSequence:
        token_ids = np.concatenate(([self.layout.bos], text_ids, [self.layout.eos])).astype(np.int32)
        return self._supervised(token_ids, [(1, len(token_ids))])

    def understand_overhead(self, with_image: bool) -> int:
        """Tokens around one turn's question, image and answer: BOS, EOS, and the template before an image."""
        return 2 + (len(self.before) if with_image else 0)

    def _visual(self, visual: Visual) -> tuple[np.ndarray, np.ndarray]:
        """Opening and body of an image or a clip."""
        if isinstance(visual, Clip):
            codes_THW, template = visual.codes_THW, self.video_template
            return self._opening(template, *codes_THW.shape), video_tokens(codes_THW, self.layout, template)
        return self._opening(IMAGE, 1, *visual.shape), image_tokens(visual, self.layout)

    def _opening(self, template: VideoTemplate, frames: int, height: int, width: int) -> np.ndarray:
        key = (template.name, frames, height, width)
        if key not in self._openings:
            size = self.encode(template.size_text(frames, height, width))
            self._openings[key] = np.array([self.layout.boi, *size, self.layout.img], np.int32)
        return self._openings[key]

    def _supervised(self, token_ids: np.ndarray, spans: Sequence[tuple[int, int]]) -> TrainingSequence:
        """The loss is over the tokens of the spans, each from its begin up to its end."""
        weights = np.zeros(len(token_ids), np.float32)
        for begin, end in spans:
            weights[begin:end] = self.loss.of(token_ids[begin:end], self.layout)
        return TrainingSequence(token_ids, weights)
