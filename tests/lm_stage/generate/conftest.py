"""A renderer, and datasets whose images and clips go into prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lm_stage.text.renderer import SequenceRenderer
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import SequenceRecord
from shared.dataset.settings import SEQUENCE_FORMAT
from tests.support import handmade
from tests.support.prompts import CLIP
from tests.support.renderers import small_renderer


@pytest.fixture(scope="module")
def sequences() -> SequenceRenderer:
    return small_renderer(["a red apple"] * 3, handmade.CODEBOOK_SIZE)


@pytest.fixture
def coded_images(tmp_path: Path) -> Dataset:
    """Rows one, two, three of 2 × 3 codes; the second has no caption."""
    dataset, plan = handmade.freeze(tmp_path / "codes", ["one", "two", "three"])
    rows = [handmade.record(index, key) for index, key in enumerate(["one", "two", "three"])]
    rows[1] = replace(rows[1], text=None)
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(3)]), plan)
    return dataset


@pytest.fixture
def clips(tmp_path: Path) -> Dataset:
    """Rows clip (2 frames of 2 × 3 codes, 24 fps), still (an image) and failed (nothing)."""
    dataset, plan = handmade.freeze(tmp_path / "clips", ["clip", "still", "failed"])
    common = {"src_sha256": bytes(32), "src_h": 16, "src_w": 24, "src_uri": "p"}
    nothing = np.zeros((0, 0, 0), np.uint16)
    rows = [
        SequenceRecord("clip", 0, "video", CLIP, "a red apple", fps=24.0, **common),
        SequenceRecord("still", 1, "image", CLIP[:1], "a pear", **common),
        SequenceRecord("failed", 2, "video", nothing, "x", valid=False, error="row 0", tokens=(1,), **common),
    ]
    dataset = with_format(dataset, plan)
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), dataset.plan())
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(3)]), dataset.plan())
    return dataset


def with_format(dataset: Dataset, plan: Plan) -> Dataset:
    """The same empty dataset, for sequences."""
    units = [plan.unit(number) for number in range(len(plan))]
    dataset.plan_path.unlink()
    freeze_plan(dataset.plan_path, units, replace(handmade.settings(), format=SEQUENCE_FORMAT), plan.input_count)
    return dataset
