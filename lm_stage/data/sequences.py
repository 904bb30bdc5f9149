"""Training sequences: a rendered prompt, what follows it, and the weight of every token in the loss.

| image       | BOS caption BOI H*W IMG body EOS             the loss covers the body and EOS                    |
| video       | BOS caption BOI T*H*W IMG body EOS           the same                                            |
| understand  | BOS … USER: image question . ASSISTANT: answer EOS           the loss covers the answer and EOS  |
|             | then USER: question . ASSISTANT: answer EOS for every later turn    all answers, each with EOS   |
| text        | BOS text EOS, or a question and its answer without an image    the text or the answer, and EOS   |

Prompts are never supervised, and neither are the images and videos within them. The published template has a single
turn; ending every answer with EOS is our choice, so that a turn ends in training as it does in generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lm_stage.data.options import LossWeights
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from lm_stage.text.templates import CHAT
from shared.tokens.grid_formats import grid_length
from shared.tokens.visual_tokens import VISUAL, body_template


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """int32 token ids (L,) and float32 weights (L,): the weight of each token's prediction in the loss."""

    token_ids: np.ndarray
    weights: np.ndarray


class EncodedTexts:
    """int32 token ids of each text, in order; `lengths` is int64 (n,). None encodes to no tokens.

    Equal texts are encoded once. `count` and `name` label the progress bar.
    """

    def __init__(self, texts: Iterable[str | None], count: int, encode: Callable[[str], np.ndarray], name: str):
        known: dict[str | None, np.ndarray] = {None: np.zeros(0, np.int32)}
        parts = []
        for text in tqdm(texts, f"texts of {name}", count, unit="text", disable=None, leave=False):
            if text is not None and text not in known:
                known[text] = encode(text)
            parts.append(known[text])
        self.lengths = np.array([len(part) for part in parts], np.int64)
        self._ends = np.concatenate(([0], np.cumsum(self.lengths)))
        self._ids = np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._ids[self._ends[index] : self._ends[index + 1]]

    def empty(self) -> np.ndarray:
        """Return the token ids of no text."""
        return self._ids[:0]


class SequenceBuilder:
    """Builds training sequences from prompts of one renderer. Texts arrive encoded, because each is used many times."""

    def __init__(self, renderer: SequenceRenderer, loss: LossWeights):
        self.renderer = renderer
        self.layout = renderer.layout
        self.loss = loss
        self.chat_opening = self.encode(CHAT.opening())
        self._bos, self._eos = np.array([self.layout.bos], np.int32), np.array([self.layout.eos], np.int32)
        self._body_weights: dict[tuple[bool, int, int, int], np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        return self.renderer.encode(text)

    def grid_length(self, is_video: bool, frames: int, height: int, width: int) -> int:
        """Return the number of tokens of an image or a video: header and body."""
        grid_format = self.renderer.format_of(is_video)
        header = self.renderer.header(grid_format, frames, height, width)
        return len(header) + grid_length(frames, height, width, grid_format)

    def captioned(self, caption_ids: np.ndarray, grid: CodeGrid) -> TrainingSequence:
        """Build a caption and its image or video; an empty caption trains the unconditional model for guidance."""
        header, body = self.renderer.header_and_body(grid)
        token_ids = np.concatenate((self._bos, caption_ids, header, body, self._eos))
        weights = np.zeros(len(token_ids), np.float32)
        weights[-1 - len(body) : -1] = self._weights_of_body(grid.is_video, *grid.codes_THW.shape)
        weights[-1] = self.loss.of_other
        return TrainingSequence(token_ids, weights)

    def conversation(
        self,
        turns: Sequence[tuple[np.ndarray, np.ndarray]],
        grid: CodeGrid | None,
        opening_ids: np.ndarray | None = None,
    ) -> TrainingSequence:
        """Build questions and answers about an image, a video or neither; the loss covers every answer.

        A question comes as the token ids of `ConversationTemplate.question_text`. `opening_ids` replace the published
        opening before an image or a video.
        """
        token_ids = [self._bos]
        if grid is not None:
            opening_ids = self.chat_opening if opening_ids is None else opening_ids
            token_ids += [opening_ids, *self.renderer.header_and_body(grid)]
        weights = [np.zeros(sum(map(len, token_ids)), np.float32)]
        for question_ids, answer_ids in turns:
            token_ids += [question_ids, answer_ids, self._eos]
            weights += [np.zeros(len(question_ids), np.float32), self._other_weights(len(answer_ids) + 1)]
        return TrainingSequence(np.concatenate(token_ids), np.concatenate(weights))

    def text(self, text_ids: np.ndarray) -> TrainingSequence:
        """Build plain text, supervised from its first token on."""
        token_ids = np.concatenate((self._bos, text_ids, self._eos))
        weights = self._other_weights(len(token_ids))
        weights[0] = 0
        return TrainingSequence(token_ids, weights)

    def _other_weights(self, count: int) -> np.ndarray:
        return np.full(count, self.loss.of_other, np.float32)

    def _weights_of_body(self, is_video: bool, frames: int, height: int, width: int) -> np.ndarray:
        key = (is_video, frames, height, width)
        if key not in self._body_weights:
            grid_format = self.renderer.format_of(is_video)
            is_visual = body_template(frames, height, width, self.layout, grid_format) == VISUAL
            weights = np.where(is_visual, self.loss.of_visual, self.loss.of_other)
            self._body_weights[key] = weights.astype(np.float32)
        return self._body_weights[key]
