"""A small codes dataset of the embedded tokenizer, to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import CodeRecord
from vq_stage.encode.options import EncodeOptions
from vq_stage.media.resizing import Preprocessing


def write_codes(
    root: Path, rows: int = 30, units: int = 2, codebook_size: int = 2048, captioned: int | None = None
) -> Path:
    """Write a codes dataset of the embedded tokenizer; all images, or the first `captioned`, have captions."""
    root.mkdir(parents=True)
    settings = EncodeOptions("", "", preprocessing=Preprocessing("none")).recorded()
    per_unit = rows // units
    inputs = [PlannedInput(i, f"image-{i}", f"{i}.png", "a red apple") for i in range(rows)]
    cut = [Unit(u, 24, 32, tuple(inputs[u * per_unit : (u + 1) * per_unit])) for u in range(units)]
    freeze_plan(root / "plan.arrow", cut, settings, rows)
    dataset, random = Dataset(root), np.random.default_rng(0)
    plan = dataset.plan()
    for unit in cut:
        records = [
            CodeRecord(
                item.key,
                item.src_index,
                "image",
                random.integers(0, codebook_size, (1, 3, 4)).astype(np.uint16),
                "a red apple " * (1 + item.src_index % 3) if item.src_index < (captioned or rows) else None,
                item.uri,
                bytes(32),
                24,
                32,
            )
            for item in unit.inputs
        ]
        dataset.commit(UnitResult(unit.unit, records, numerics={"device": "CPU"}), plan)
    dataset.write_manifest(plan)
    return root
