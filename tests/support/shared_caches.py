"""Models that keep their KV caches: compiling the graphs of a cache takes longer than most tests that use one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lm_stage import LanguageModel
from lm_stage.inference.options import InferenceOptions
from lm_stage.model.backend import CachedModel
from lm_stage.model.model_directory import ModelDirectory

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


Kept = dict[tuple[object, ...], LanguageModel]


def keep_models(patch: pytest.MonkeyPatch, kept: Kept) -> None:
    """Let jobs share the models that they load, and their caches, as long as the patch lasts.

    The files of a model must not change meanwhile.
    """
    load = LanguageModel.for_job

    def for_job(model: ModelDirectory, options: InferenceOptions) -> LanguageModel:
        chosen = options.device, options.dtype, options.kernels, options.backend
        key = (model.path, str(model.layout), model.prompting.name, *chosen)
        if key not in kept:
            kept[key] = load(model, options)
            kept[key].backend = SharedCaches(kept[key].backend)
        return kept[key]

    patch.setattr(LanguageModel, "for_job", for_job)
