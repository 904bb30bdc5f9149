"""Datasets of generated sequences, valid and invalid, committed as `emu3 generate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.codec import Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.quarantine import Refusal
from shared.dataset.rows import CodeRecord, SequenceRecord
from shared.dataset.settings import SEQUENCE_FORMAT, DatasetSettings
from tests.support import handmade
from tests.support.flip import flip_bit

EMPTY_GRID = np.zeros((0, 0, 0), np.uint16)
SETTINGS = DatasetSettings(Codec("c0dec", 512, 8, 4), format=SEQUENCE_FORMAT, generation={"guidance_scale": 3.0})


def sequence(index: int = 0, key: str = "a", **changes: Any) -> SequenceRecord:
    codes = np.random.default_rng(index).integers(0, 512, (1, 2, 3)).astype(np.uint16)
    row = SequenceRecord(key, index, "image", codes, "a pear", "p#1", bytes(32), 16, 24, prompt="a pear, sharp")
    return replace(row, **{"negative_prompt": "blurry", "seed": 5, "guidance_scale": 3.0, **changes})


def broken(index: int, key: str, tokens: Sequence[int] = (300, 70000, 184621)) -> SequenceRecord:
    error = "row 0, offset 1: expected a visual token"
    return sequence(index, key, codes_THW=EMPTY_GRID, valid=False, error=error, tokens=tuple(tokens))


def write(root: Path, units: Sequence[Sequence[CodeRecord]], refused: int = 0, **settings: Any) -> Dataset:
    """Write a dataset of these units, and one of refused inputs if there are any."""
    root.mkdir()
    planned = [
        Unit(number, 16, 24, tuple(PlannedInput(row.src_index, row.key, row.src_uri) for row in rows))
        for number, rows in enumerate(units)
    ]
    bad = [PlannedInput(900 + index, f"r{index}", "p", None, "too_long", "no") for index in range(refused)]
    planned += [Unit(len(units), 0, 0, tuple(bad))] if bad else []
    freeze_plan(root / "plan.arrow", planned, replace(SETTINGS, **settings), sum(len(unit.inputs) for unit in planned))
    dataset = Dataset(root)
    plan = dataset.plan()
    for number, rows in enumerate(units):
        dataset.commit(UnitResult(number, rows, numerics=handmade.NUMERICS), plan)
    if bad:
        refusals = [Refusal(item.key, item.src_index, item.uri, "too_long", "no") for item in bad]
        dataset.commit(UnitResult(len(units), refusals=refusals), plan)
    dataset.write_manifest(plan)
    return dataset


def described(row: CodeRecord) -> dict[str, Any]:
    """Return all fields in a form that can be compared."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    tokens = values["tokens"] if values["tokens"] is None else list(values["tokens"])
    return {**values, "codes_THW": (row.codes_THW.shape, row.codes_bytes), "tokens": tokens}


def damage(dataset: Dataset, unit: int, data: bytes) -> str:
    """Flip a bit of the only occurrence of these bytes in a part; return the part's name."""
    path = dataset.parts / dataset.record(unit).part
    flip_bit(path, data)
    return path.name
