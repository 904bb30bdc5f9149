"""Small datasets in every form that fine-tuning reads, and a sequence builder for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.data.mixture import SampleSet, open_samples
from lm_stage.data.options import LossWeights, MixtureEntry
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.text.prompting import PLAIN, Prompting
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import PlannedInput, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import CodeRecord, SequenceRecord
from tests.support import handmade
from tests.support.renderers import small_renderer

CAPTIONS = ("a red apple", "", None, "a green pear, é \u2028 again " * 3, "a red apple", "7")
LARGE = np.arange(12 * 10, dtype=np.uint16).reshape(1, 12, 10)


def small_builder(weights: LossWeights | None = None, prompting: Prompting = PLAIN) -> SequenceBuilder:
    """Return a builder whose vocabulary was learned from a few words."""
    renderer = small_renderer(["a red apple", "a green pear"] * 3, handmade.CODEBOOK_SIZE, prompting=prompting)
    return SequenceBuilder(renderer, weights or LossWeights())


def image_row(index: int, **changes: Any) -> CodeRecord:
    """Return an image row."""
    return replace(handmade.record(index, f"k{index}"), **changes)


def sequence_row(index: int, **changes: Any) -> SequenceRecord:
    """Return the row of a generated image."""
    codes = np.random.default_rng(index).integers(0, 512, (1, 2, 3)).astype(np.uint16)
    written = SequenceRecord(f"k{index}", index, "image", codes, "a pear", f"p#{index}", bytes(32), 16, 24)
    return replace(written, **changes)


def video_row(index: int, frames: int, **changes: Any) -> SequenceRecord:
    """Return the row of a generated video."""
    codes = np.random.default_rng(index).integers(0, 512, (frames, 2, 3)).astype(np.uint16)
    return sequence_row(index, **{"kind": "video", "codes_THW": codes, **changes})


def failed_row(index: int) -> SequenceRecord:
    """Return the row of a sequence that failed."""
    nothing = np.zeros((0, 0, 0), np.uint16)
    return sequence_row(index, codes_THW=nothing, valid=False, error="row 0", tokens=(300, 70000))


def write_dataset(root: Path, units: Sequence[Sequence[CodeRecord]], commit: bool = True, **settings: Any) -> Path:
    """Write a dataset of these units and a unit with a refused input."""
    root.mkdir()
    planned = [
        Unit(number, 16, 24, tuple(PlannedInput(row.src_index, row.key, row.src_uri) for row in rows))
        for number, rows in enumerate(units)
    ]
    bad = PlannedInput(900, "refused-900", "900.png", None, "empty", "the file has no bytes")
    planned.append(Unit(len(units), 0, 0, (bad,)))
    freeze_plan(
        root / "plan.arrow",
        planned,
        replace(handmade.settings(), **settings),
        sum(len(unit.inputs) for unit in planned),
    )
    dataset = Dataset(root)
    plan = dataset.plan()
    for number, rows in enumerate(units if commit else ()):
        dataset.commit(UnitResult(number, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(len(units), refusals=[handmade.refusal(900)]), plan)
    return root


def mixed_units() -> list[list[CodeRecord]]:
    """Return two units with captions and sizes of many kinds."""
    rows = [image_row(index, text=text) for index, text in enumerate(CAPTIONS)]
    rows[1] = replace(rows[1], codes_THW=LARGE)
    rows[4] = replace(rows[4], codes_THW=LARGE[:, :1, :])
    return [rows[:2], rows[2:]]


def write_lines(path: Path, *lines: Any) -> Path:
    """Write a .jsonl file."""
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def extra_row(index: int, text: str | None = "a caption", **values: Any) -> CodeRecord:
    """Return an image row with fields in `extra_json`."""
    return image_row(index, text=text, extra_json=json.dumps(values))


def opened(path: Path, builder: SequenceBuilder, task: str = "image", images: Path | None = None) -> SampleSet:
    """Open the samples of a dataset for a task."""
    return open_samples(MixtureEntry(str(path), task, images=images and str(images)), builder)


def assert_lengths_are_true(samples: SampleSet) -> None:
    """Compare the lengths that are known in advance with the sequences that are built."""
    assert len(samples.keys) == len(samples.lengths) == len(samples.captionless_lengths) > 0
    for index in range(len(samples.keys)):
        for drop_caption, lengths in ((False, samples.lengths), (True, samples.captionless_lengths)):
            built = samples.sequence(index, drop_caption)
            assert len(built.token_ids) == len(built.weights) == lengths[index], samples.keys[index]
