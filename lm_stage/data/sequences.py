"""Training sequences: a rendered prompt, what follows it, and the weight of every token in the loss.

| image       | BOS caption BOI H*W IMG body EOS             the loss covers the body and EOS                    |
| video       | BOS caption BOI T*H*W IMG body EOS           the same                                            |
| understand  | BOS … USER: image question . ASSISTANT: answer EOS           the loss covers the answer and EOS  |
|             | then USER: question . ASSISTANT: answer EOS for every later turn    all answers, each with EOS   |
| text        | BOS text EOS, or a question and its answer without an image    the text or the answer, and EOS   |

| document    | BOS … USER: text and images ASSISTANT: text and images EOS   the loss covers all of the answer  |

This is Emu3's form. Every family has its own templates and control tokens around answers (`text/prompting.py`): with
Emu3.5's, an image follows BSS, its size is part of the answer, and ESS comes before EOS.

Prompts are never supervised, and neither are the images and videos within them. The published template has a single
turn; ending every answer as the only one is our choice, so that a turn ends in training as it does in generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from lm_stage.data.options import LossWeights
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
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


class SequenceBuilder:
    """Builds training sequences from prompts of one renderer. Texts arrive encoded, because each is used many times."""

    def __init__(self, renderer: SequenceRenderer, loss: LossWeights):
        self.renderer = renderer
        self.layout = renderer.layout
        self.loss = loss
        self.prompting = renderer.prompting
        self.chat_opening = self.encode(self.prompting.chat.opening())
        self.unconditional_ids = self.encode(self.prompting.unconditional.question_text(""))
        self._bos, self._eos = renderer.tokens(("bos",)), renderer.tokens(("eos",))
        self.answer_begin = renderer.tokens(self.prompting.answer_begin)
        self.answer_end = renderer.tokens(self.prompting.answer_end)
        self._body_weights: dict[tuple[bool, int, int, int], np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        return self.renderer.encode(text)

    def grid_length(self, is_video: bool, frames: int, height: int, width: int) -> int:
        """Return the number of tokens of an image or a video: header and body."""
        grid_format = self.renderer.format_of(is_video)
        header = self.renderer.header(grid_format, frames, height, width)
        return len(header) + grid_length(frames, height, width, grid_format)

    @property
    def tokens_around(self) -> int:
        """The number of control tokens around a question and its answer, BOS included."""
        return 1 + len(self.answer_begin) + len(self.answer_end)

    def captioned(self, prompt_ids: np.ndarray, grid: CodeGrid) -> TrainingSequence:
        """Build a caption and its image or video.

        The caption comes as the token ids of `draw.question_text`; `unconditional_ids` in its place train the
        unconditional model for guidance.
        """
        return self.document([prompt_ids], [grid], supervises_size=self.prompting.writes_size)

    def document(
        self,
        prompt: Iterable[np.ndarray | CodeGrid],
        answer: Iterable[np.ndarray | CodeGrid],
        supervises_size: bool = True,
    ) -> TrainingSequence:
        """Build a prompt and its answer from texts as token ids, images and videos; the loss covers the answer.

        Without `supervises_size`, it does not cover the sizes of images in the answer.
        """
        token_ids, weights = [self._bos], []
        for part in (*prompt, self.answer_begin):
            token_ids += self.renderer.header_and_body(part) if isinstance(part, CodeGrid) else [part]
        weights.append(np.zeros(sum(map(len, token_ids)), np.float32))
        for part in (*answer, self.answer_end):
            if isinstance(part, CodeGrid):
                header, body = self.renderer.header_and_body(part)
                token_ids += [header, body]
                weights.append(np.full(len(header), self.loss.of_other * supervises_size, np.float32))
                weights.append(self._weights_of_body(part.is_video, *part.codes_THW.shape))
            else:
                token_ids.append(part)
                weights.append(self._other_weights(len(part)))
        return TrainingSequence(np.concatenate(token_ids), np.concatenate(weights))

    def conversation(
        self,
        turns: Sequence[tuple[np.ndarray, np.ndarray]],
        grid: CodeGrid | None,
        opening_ids: np.ndarray | None = None,
    ) -> TrainingSequence:
        """Build questions and answers about an image, a video or neither; the loss covers every answer.

        A question comes as the token ids of `chat.question_text`. `opening_ids` replace the published opening before
        an image or a video.
        """
        token_ids = [self._bos]
        if grid is not None:
            opening_ids = self.chat_opening if opening_ids is None else opening_ids
            token_ids += [opening_ids, *self.renderer.header_and_body(grid)]
        weights = [np.zeros(sum(map(len, token_ids)), np.float32)]
        for question_ids, answer_ids in turns:
            token_ids += [question_ids, self.answer_begin, answer_ids, self.answer_end]
            weights.append(np.zeros(len(question_ids) + len(self.answer_begin), np.float32))
            weights.append(self._other_weights(len(answer_ids) + len(self.answer_end)))
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
