"""The grammar of answers that mix text and images, token by token while one is generated, and back to its parts.

    answer     = (text | image | reasoning)* end          the end is ESS or EOS; a limit may cut an answer anywhere
    image      = BOI height * width IMG body              the body as in `shared/tokens/grid_formats.py`
    reasoning  = BOG text EOG | BOC text EOC              about the whole answer, or about the next image

The size of an image is text, one token for each digit. It is free, or forced; once an image has one, later images
repeat it unless every image is free. Sources: Emu3.5, `logits_processor.py`, which allows two digits a side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lm_stage.text.renderer import SequenceRenderer
from shared.errors import CheckpointError
from shared.tokens.grid_formats import GridFormat, grid_length
from shared.tokens.layout import TokenLayout
from shared.tokens.visual_tokens import VISUAL, body_template, grid_codes

# What `AnswerState.choice` can be besides a token: text or a control token, a token of a size, or a code.
TEXT, SIZE, CODE = -1, -2, -3
MAX_DIGITS = 3  # of a side, in codes
SPANS = {"bog": ("eog", "reasoning"), "boc": ("eoc", "image_reasoning")}  # opening role -> closing role, kind of part


@dataclass(frozen=True, slots=True)
class DecodedPart:
    """A part of an answer: `kind` is text, reasoning, image_reasoning or image; an image has codes (H, W)."""

    kind: str
    text: str | None = None
    codes_HW: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """The tokens that the grammar of one model consists of. Build it with `of`."""

    layout: TokenLayout
    image_format: GridFormat
    digits: tuple[int, ...]
    times: int

    @classmethod
    def of(cls, renderer: SequenceRenderer) -> AnswerGrammar:
        """Raises CheckpointError if the vocabulary does not write sizes with one token for each digit."""
        tokens = [renderer.encode(one).tolist() for one in "0123456789*"]
        if any(len(ids) != 1 for ids in tokens) or renderer.encode("120*345").tolist() != [
            tokens["0123456789*".index(one)][0] for one in "120*345"
        ]:
            raise CheckpointError("the text vocabulary does not have one token for each digit of an image's size")
        ids = [token for [token] in tokens]
        return cls(renderer.layout, renderer.prompting.image_format, tuple(ids[:10]), ids[10])

    @property
    def ends(self) -> set[int]:
        return {token for token in (self.layout.ess, self.layout.eos) if token is not None}

    def size_ids(self, height: int, width: int) -> list[int]:
        """Return the token ids of a size."""
        side = [[self.digits[int(digit)] for digit in str(number)] for number in (height, width)]
        return [*side[0], self.times, *side[1]]

    def parsed_size(self, ids: Sequence[int]) -> tuple[int, int]:
        """Return the size that token ids spell."""
        text = "".join("*" if one == self.times else str(self.digits.index(one)) for one in ids)
        height, width = map(int, text.split("*"))
        return height, width

    def body(self, height: int, width: int) -> list[int]:
        """Return the body of an image, with VISUAL for each code."""
        template: list[int] = body_template(1, height, width, self.layout, self.image_format).tolist()
        return template

    def next_size_ids(self, written: Sequence[int]) -> list[int]:
        """Return what may follow the beginning of a size: digits without a leading zero, `*`, or IMG."""
        has_height = self.times in written
        side = written[written.index(self.times) + 1 :] if has_height else written
        allowed = list(self.digits[0 if side else 1 :]) if len(side) < MAX_DIGITS else []
        return [*allowed, *([self.layout.img if has_height else self.times] if side else [])]

    def after_text(self, span: str | None) -> list[int]:
        """Return the control tokens that may follow text, outside of any span or within one, by its opening role."""
        if span is not None:
            return [getattr(self.layout, SPANS[span][0])]
        opening = [getattr(self.layout, role) for role in SPANS if self._has_span(role)]
        return [self.layout.boi, *opening, *sorted(self.ends)]

    @property
    def span_ids(self) -> set[int]:
        """The tokens that open and close spans of reasoning."""
        roles = [(role, SPANS[role][0]) for role in SPANS if self._has_span(role)]
        return {getattr(self.layout, role) for pair in roles for role in pair}

    def _has_span(self, role: str) -> bool:
        return getattr(self.layout, role) is not None and getattr(self.layout, SPANS[role][0]) is not None

    def span_of(self, token: int) -> str | None:
        """Return the role of a token that opens a span."""
        return next((role for role in SPANS if self._has_span(role) and token == getattr(self.layout, role)), None)


class AnswerState:
    """Where an answer is in the grammar, after the tokens it has taken.

    `size` is that of the next image if it is forced, in codes. With `repeats_size`, a free size applies to all later
    images. An image that does not fit into `max_tokens` is not begun.
    """

    def __init__(
        self, grammar: AnswerGrammar, max_tokens: int, size: tuple[int, int] | None = None, repeats_size: bool = True
    ):
        self.grammar, self.max_tokens = grammar, max_tokens
        self.size, self.repeats_size = size, repeats_size
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._forced: deque[int] = deque()  # what follows, with VISUAL for a code
        self._size_ids: list[int] | None = None  # of a free size, while it is written
        self._span: str | None = None

    @property
    def is_in_image(self) -> bool:
        """Whether the last token lies between BOI and EOI, or is one of them."""
        in_image = bool(self._forced) or self._size_ids is not None
        return in_image or bool(self.tokens and self.tokens[-1] == self.grammar.layout.eoi)

    def choice(self) -> int:
        """Return the only token that may follow; or CODE, or SIZE or TEXT, of which `allowed_ids` are possible."""
        if self._forced:
            return CODE if self._forced[0] == VISUAL else self._forced[0]
        return TEXT if self._size_ids is None else SIZE

    def allowed_ids(self) -> list[int]:
        """Return the tokens of a size that may follow, or the control tokens that may follow besides ordinary text."""
        if self._size_ids is not None:
            return self.grammar.next_size_ids(self._size_ids)
        return self.grammar.after_text(self._span)

    def take(self, token: int) -> None:
        """Append a token that the grammar allows here."""
        layout = self.grammar.layout
        self.tokens.append(token)
        if self._forced:
            self._forced.popleft()
        elif self._size_ids is not None:
            self._take_size(token)
        elif token == layout.boi:
            self._begin_image()
        elif token in self.grammar.ends:
            self.finish_reason = "complete"
        elif self._span is None:
            self._span = self.grammar.span_of(token)
        elif token == getattr(layout, SPANS[self._span][0]):
            self._span = None
        if self.finish_reason is None and len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"

    def _begin_image(self) -> None:
        if self.size is None:
            self._size_ids = []
        else:
            self._force([*self.grammar.size_ids(*self.size), self.grammar.layout.img], self.size)

    def _take_size(self, token: int) -> None:
        assert self._size_ids is not None
        if token != self.grammar.layout.img:
            self._size_ids.append(token)
            return
        size = self.grammar.parsed_size(self._size_ids)
        self._size_ids = None
        if self.repeats_size:
            self.size = size
        self._force([], size)

    def _force(self, header: list[int], size: tuple[int, int]) -> None:
        """Force what follows of an image, or end the answer if there is no room for it."""
        length = len(header) + grid_length(1, *size, self.grammar.image_format)
        if len(self.tokens) + length > self.max_tokens:
            self.finish_reason = "length"
        else:
            self._forced.extend([*header, *self.grammar.body(*size)])


def answer_parts(
    tokens: Iterable[int], grammar: AnswerGrammar, decode: Callable[[list[int]], str]
) -> Iterator[DecodedPart]:
    """Yield the parts of an answer in order; `decode` returns the text of token ids.

    An image that is incomplete at the end, and text that is only white space, are left out. Raises ShapeError for an
    image that is not in the grammar.
    """
    layout, numbers = grammar.layout, iter(tokens)
    run, kind, breaks = list[int](), "text", {layout.boi, *grammar.ends, *grammar.span_ids}
    for token in numbers:
        if token not in breaks:
            run.append(token)
            continue
        yield from _text_part(run, kind, decode)
        span = grammar.span_of(token)
        run, kind = [], SPANS[span][1] if span else "text"
        if token == layout.boi and (codes_HW := _image(numbers, grammar)) is not None:
            yield DecodedPart("image", codes_HW=codes_HW)
    yield from _text_part(run, kind, decode)


def _text_part(run: list[int], kind: str, decode: Callable[[list[int]], str]) -> Iterator[DecodedPart]:
    text = decode(run)
    if text.strip():
        yield DecodedPart(kind, text)


def _image(numbers: Iterator[int], grammar: AnswerGrammar) -> np.ndarray | None:
    """Read an image after its BOI; None if it is incomplete."""
    layout, image = grammar.layout, list[int]()
    for token in numbers:
        image.append(token)
        if token == layout.eoi:
            begin = image.index(layout.img)
            size = grammar.parsed_size(image[:begin])
            codes_HW: np.ndarray = grid_codes(np.array(image[begin + 1 :]), 1, *size, layout, grammar.image_format)[0]
            return codes_HW
    return None
