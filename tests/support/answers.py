"""Stand-ins for a language model that likes to draw."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from lm_stage.text.answer_grammar import AnswerGrammar


class ChattyCache:
    """A cache whose logits depend on the tokens of a row, with a preference for images of few codes and for ends.

    `tokens` holds what is in each row.
    """

    def __init__(self, rows: int, grammar: AnswerGrammar):
        self.rows, self.grammar = rows, grammar
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def prefill(self, row: int, token_ids: Sequence[int]) -> None:
        self.tokens[row] = list(token_ids)

    def decode_step(self, token_ids_RL: np.ndarray, positions_RL: np.ndarray) -> np.ndarray:
        layout, grammar = self.grammar.layout, self.grammar
        logits_RLV = np.zeros((*token_ids_RL.shape, layout.end_of_visual), np.float32)
        for (row, column), token in np.ndenumerate(token_ids_RL):
            position = positions_RL[row, column]
            assert position <= len(self.tokens[row]), "a position was skipped"
            self.tokens[row][position:] = [int(token)]
            seed = zlib.crc32(repr(self.tokens[row]).encode())
            logits_V = np.random.default_rng(seed).normal(size=layout.end_of_visual)
            logits_V[[layout.boi, grammar.times, layout.img]] += 4
            logits_V[list(grammar.digits[4:])] -= 4
            logits_V[[one for one in (layout.ess, layout.eos) if one is not None]] += 1
            logits_RLV[row, column] = logits_V
        return logits_RLV
