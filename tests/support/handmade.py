"""A small dataset made without MindSpore: a unit of pictures of 2 × 3 codes, and a unit of refused inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import DatasetSettings
from shared.storage.paths import make_directory
from tests.support.command import TOKENIZER
from vq_stage.encode.options import EncodeOptions
from vq_stage.media.resizing import Preprocessing

CODEBOOK_SIZE = 512  # of the golden tokenizer
NUMERICS = {"device": "CPU"}


def record(index: int, key: str) -> CodeRecord:
    codes_THW = np.random.default_rng(index).integers(0, CODEBOOK_SIZE, (1, 2, 3)).astype(np.uint16)
    return CodeRecord(key, index, "image", codes_THW, f"caption {index}", f"{index}.png", bytes(32), 16, 24)


def refusal(index: int) -> Refusal:
    return Refusal(f"refused-{index}", index, f"{index}.png", "empty", "the file has no bytes")


def settings() -> DatasetSettings:
    """Return the settings of an encode job with the golden tokenizer, so that decode accepts the dataset."""
    options = EncodeOptions("", "", str(TOKENIZER), Preprocessing("none"), unit_rows=3)
    return options.recorded()


def freeze(root: str | Path, keys: Sequence[str], refused: int = 1) -> tuple[Dataset, Plan]:
    """Plan a dataset of two units, of these keys and of refused inputs, without committing anything."""
    dataset = Dataset(root)
    make_directory(dataset.root)
    inputs = tuple(PlannedInput(index, key, f"{index}.png", f"caption {index}") for index, key in enumerate(keys))
    bad = tuple(
        PlannedInput(index, f"refused-{index}", f"{index}.png", None, "empty", "the file has no bytes")
        for index in range(len(keys), len(keys) + refused)
    )
    freeze_plan(dataset.plan_path, [Unit(0, 16, 24, inputs), Unit(1, 0, 0, bad)], settings(), len(inputs + bad))
    return dataset, dataset.plan()


def make(root: str | Path, keys: Sequence[str] = ("one", "two", "three")) -> Dataset:
    """Write a complete dataset: both units committed, and the manifest."""
    dataset, plan = freeze(root, keys)
    dataset.commit(UnitResult(0, [record(index, key) for index, key in enumerate(keys)], numerics=NUMERICS), plan)
    dataset.commit(UnitResult(1, refusals=[refusal(len(keys))]), plan)
    dataset.write_manifest(plan)
    return dataset
