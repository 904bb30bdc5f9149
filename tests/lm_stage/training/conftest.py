"""Golden sequences and values for the training tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_stage.data.batch import TrainingBatch
from lm_stage.training.step import TrainStep
from tests.support.golden_training import batch_of, restart, train_step


@pytest.fixture(scope="module")
def expected(golden_lm: Path) -> dict[str, Any]:
    return json.loads((golden_lm / "expected.json").read_text())


@pytest.fixture(scope="module")
def sequences(golden_lm: Path, expected: dict[str, Any]) -> list[np.ndarray]:
    with np.load(golden_lm / "expected.npz") as file:
        return [np.concatenate((p, file[f"tokens_{i}"])).astype(np.int32) for i, p in enumerate(expected["prompts"])]


@pytest.fixture(scope="module")
def emu35_training(golden_emu35: Path) -> dict[str, Any]:
    return json.loads((golden_emu35 / "training.json").read_text())


@pytest.fixture
def batch(sequences: list[np.ndarray], expected: dict[str, Any]) -> TrainingBatch:
    """The first golden sequence: one row of 70 tokens."""
    return batch_of([[(sequences[0], len(expected["prompts"][0]))]], len(sequences[0]))


@pytest.fixture(scope="session")
def compiled_step(golden_lm: Path) -> TrainStep:
    """The step of all tests that take one of the golden model, for rows of 70 tokens."""
    return train_step(golden_lm, 70)


@pytest.fixture
def step(compiled_step: TrainStep, golden_lm: Path) -> TrainStep:
    """A step with the golden weights, whose optimizer has taken none."""
    return restart(compiled_step, golden_lm)
