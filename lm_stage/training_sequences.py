"""A sample of a dataset as a training sequence: token ids, and which of them the loss is over.

| image       | BOS caption BOI H*W IMG body EOS      loss: the body and EOS, or its visual tokens only               |
| understand  | BOS … USER: image question . ASSISTANT: answer EOS      loss: the answer and EOS                      |
| text        | BOS text EOS, or question and answer without an image   loss: the text, or the answer, and EOS        |

Prompts are never supervised, images within a prompt neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lm_stage.templates import CHAT_AFTER, CHAT_BEFORE
from lm_stage.text_tokenizer import TextTokenizer
from shared.layout import TokenLayout
from shared.visual_tokens import image_length, image_tokens

TASKS = ("image", "understand", "text")
LOSSES = ("after_prompt", "visual", "text")


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

    def __init__(self, text_tokenizer: TextTokenizer, layout: TokenLayout, loss: LossWeights):
        self.text_tokenizer = text_tokenizer
        self.layout = layout
        self.loss = loss
        self.before = self.encode(CHAT_BEFORE)
        self._openings: dict[tuple[int, int], np.ndarray] = {}
        self._bodies: dict[tuple[int, int], np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.text_tokenizer.encode(text), np.int32)

    def image_length(self, height: int, width: int) -> int:
        """Tokens of an image with its opening."""
        return len(self._opening(height, width)) + image_length(height, width)

    def image(self, caption_ids: np.ndarray, codes_HW: np.ndarray) -> TrainingSequence:
        """Caption to image; an empty caption trains the unconditional model that guidance needs."""
        opening = self._opening(*codes_HW.shape)
        body = image_tokens(codes_HW, self.layout)
        token_ids = np.concatenate(([self.layout.bos], caption_ids, opening, body, [self.layout.eos])).astype(np.int32)
        return self._supervised(token_ids, len(token_ids) - len(body) - 1)

    def asked(self, question: str, with_image: bool) -> np.ndarray:
        """Ids of a question and the template around it that is one text with it, as templates.py renders it."""
        return self.encode(question + CHAT_AFTER if with_image else CHAT_BEFORE + question + CHAT_AFTER)

    def understand(
        self, asked_ids: np.ndarray, answer_ids: np.ndarray, codes_HW: np.ndarray | None
    ) -> TrainingSequence:
        """Question (from `asked`) and answer about an image, or about nothing but text."""
        image: list[np.ndarray] = []
        if codes_HW is not None:
            image = [self.before, self._opening(*codes_HW.shape), image_tokens(codes_HW, self.layout)]
        prompt = np.concatenate(([self.layout.bos], *image, asked_ids))
        token_ids = np.concatenate((prompt, answer_ids, [self.layout.eos])).astype(np.int32)
        return self._supervised(token_ids, len(prompt))

    def text(self, text_ids: np.ndarray) -> TrainingSequence:
        token_ids = np.concatenate(([self.layout.bos], text_ids, [self.layout.eos])).astype(np.int32)
        return self._supervised(token_ids, 1)

    def understand_overhead(self, with_image: bool) -> int:
        """Tokens around what was asked, image and answer: BOS, EOS, and the template before an image."""
        return 2 + (len(self.before) if with_image else 0)

    def _opening(self, height: int, width: int) -> np.ndarray:
        if (height, width) not in self._openings:
            size = self.encode(f"{height}*{width}")
            self._openings[height, width] = np.array([self.layout.boi, *size, self.layout.img], np.int32)
        return self._openings[height, width]

    def _supervised(self, token_ids: np.ndarray, begin: int) -> TrainingSequence:
        weights = np.zeros(len(token_ids), np.float32)
        weights[begin:] = self.loss.of(token_ids[begin:], self.layout)
        return TrainingSequence(token_ids, weights)
