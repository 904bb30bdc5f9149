"""Stand-ins for the parts of the language stage that are compiled: its decoder and its training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lm_stage.data.batch import BUCKETS, TrainingBatch
from lm_stage.model.config import DecoderConfig
from tests.support.step_by_step import StandInCache


class StandInBackend:
    """Returns logits that depend on the tokens, not on weights."""

    def __init__(self, name: str, directory: object, config: DecoderConfig, device: object):
        self.config = config

    def logits(self, token_ids_L: np.ndarray) -> np.ndarray:
        shape = len(token_ids_L), self.config.vocab_size
        return np.random.default_rng(token_ids_L).normal(size=shape).astype(np.float32)

    def cached(self, rows: int, length: int, first_id: int, end_id: int) -> Any:
        return StandInCache(rows, end_id - first_id)


def stand_in_decoder(patch: pytest.MonkeyPatch) -> None:
    """Let `LanguageModel` run without a decoder as long as the patch lasts."""
    patch.setattr("lm_stage.language_model.load_backend", StandInBackend)


def stand_in_training_step(patch: pytest.MonkeyPatch) -> None:
    """Let training read batches and compute nothing from them as long as the patch lasts."""
    from lm_stage.training.step import Evaluation, Outcome, StepResult, TrainStep  # imports MindSpore

    result = StepResult(loss=1.0, gradient_norm=1.0, outcome=Outcome.APPLIED, tokens=1, is_stopped=False)
    patch.setattr(TrainStep, "run", lambda *_: result)
    patch.setattr(Evaluation, "mean_loss", lambda *_: 1.0)


def one_bucket(patch: pytest.MonkeyPatch) -> None:
    """Let all batches have the largest number of targets: otherwise a run compiles a graph for each of several."""
    patch.setattr(TrainingBatch, "target_bucket", BUCKETS)
