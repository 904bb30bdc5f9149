"""A backend that keeps its KV caches: compiling the graphs of a cache takes longer than most tests that use one."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm_stage.model.backend import CachedModel

LENGTH = 127  # of the shortest cache, which serves all shorter ones; with one more token it is a multiple of 64


class SharedCaches:
    """Our own backend, except that callers share the cache of a number of rows, one after another.

    A cache promises that nothing of an earlier sequence is visible, so that what a test sees does not depend on others.
    """

    def __init__(self, backend: Any):
        self.new, self.config, self.decoder = backend, backend.config, backend.decoder
        self._caches: dict[tuple[int, ...], CachedModel] = {}

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self.new.logits(token_ids_L)
        return logits

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> CachedModel:
        key = rows, max(length, LENGTH), first_id, end_id
        if key not in self._caches:
            self._caches[key] = self.new.cached(*key)
        return self._caches[key]
