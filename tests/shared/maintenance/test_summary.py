"""What `emu3 inspect` counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.rows import AnswerPart, AnswerRecord
from shared.dataset.settings import ANSWER_FORMAT
from shared.maintenance.summary import summarize
from tests.support import handmade
from tests.support.sft_samples import write_dataset


def test_counts_sizes_quality_and_speed(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "d", ["one", "two"])
    rows = [handmade.record(index, key) for index, key in enumerate(("one", "two"))]
    quality = [{"key": "one", "psnr_db": 20.0, "ssim": 0.5}, {"key": "two", "psnr_db": 30.0, "ssim": 0.7}]
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS, quality=quality), plan)
    dataset.events.append_unit(0, rows=2, elapsed_s=4.0)
    summary = summarize(dataset)
    assert (summary.units, summary.planned_units, summary.rows, summary.planned_rows) == (1, 2, 2, 3)
    assert (summary.captions, summary.codes, summary.sizes, summary.quarantined) == (2, 12, {"2x3": 2}, {})
    codes = {int(code) for row in rows for code in row.codes_THW.flat}
    assert (summary.codebook_used, summary.codebook_size, summary.codebook_sampled_parts) == (len(codes), 512, 1)
    assert summary.codebook_entropy_bits == pytest.approx(3.585, abs=0.2), "12 codes, nearly all different"
    assert (summary.psnr_db, summary.ssim, summary.quality_samples) == (25.0, 0.6, 2)
    assert summary.images_per_s == 0.5
    assert json.loads(json.dumps(summary.to_dict()))["settings"] == handmade.settings().to_json()


def test_refused_inputs_are_counted_by_reason(tmp_path: Path) -> None:
    summary = summarize(handmade.make(tmp_path / "d"))
    assert summary.quarantined == {"empty": 1}


def test_rows_without_a_grid_are_not_counted_by_size(tmp_path: Path) -> None:
    described = {"text": None, "src_uri": "p", "src_sha256": bytes(32), "src_h": 0, "src_w": 0}
    codes = np.zeros((1, 1, 6), np.uint16)
    row = AnswerRecord("a", 0, "answer", codes, parts=(AnswerPart("image", None, 2, 3),), tokens=[1], **described)
    summary = summarize(Dataset(write_dataset(tmp_path / "d", [[row]], format=ANSWER_FORMAT)))
    assert (summary.rows, summary.sizes) == (1, {})


def test_nothing_committed_has_no_averages(tmp_path: Path) -> None:
    dataset, _ = handmade.freeze(tmp_path / "d", ["one"])
    summary = summarize(dataset)
    assert (summary.rows, summary.bytes_per_code, summary.codebook_entropy_bits) == (0, None, None)
    assert (summary.psnr_db, summary.ssim, summary.images_per_s) == (None, None, None)
