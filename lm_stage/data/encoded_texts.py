"""Token ids of many texts in one array."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from tqdm import tqdm


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
