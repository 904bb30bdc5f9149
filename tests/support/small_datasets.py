"""Datasets of random codes, committed in the way the jobs do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.codec import Codec
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import REFUSED, PlannedInput, Size
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.rows import CodeRecord, SequenceRecord
from shared.dataset.settings import SEQUENCE_FORMAT, DatasetSettings
from shared.exchange.importer import split_runs
from shared.maintenance.verify import verify_dataset

CODEBOOK_SIZE = 32768
CODEC = Codec("ab" * 32, CODEBOOK_SIZE, 8, 4)
WIDE_CODEC = Codec("cd" * 32, 131_072, spatial_factor=16, temporal_factor=1)  # codes of 32 bits, of images only
CODES_SETTINGS = DatasetSettings(CODEC, unit_rows=3, preprocessing={"resize": "none"})
SEQUENCE_SETTINGS = DatasetSettings(CODEC, format=SEQUENCE_FORMAT, generation={"seed": 1})
ODD_KEYS = [
    "a.b/c.d.png",
    "../up",
    "/root",
    "ключ 1",
    "x" * 500,
    "__meta__",
    "__a__/b",
    "a~b",
    "%2E",
    " ",
    "new\nline",
    "",
]


def codes_THW(seed: int, t: int = 1, h: int = 4, w: int = 6, codec: Codec = CODEC) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, codec.codebook_size, (t, h, w), dtype=codec.code_dtype)


def image(index: int, key: str, codec: Codec = CODEC, **changes: Any) -> CodeRecord:
    values = {"text": f"caption {index}", "codes_THW": codes_THW(index, codec=codec), **changes}
    return CodeRecord(key, index, "image", src_uri=f"{key}.png", src_sha256=bytes([index % 256] * 32), src_h=32,
                      src_w=48, **values)  # fmt: skip


def code_rows(codec: Codec = CODEC) -> list[CodeRecord]:
    """Return images of two sizes with odd keys and texts, and clips if the codec has them."""
    texts: list[str | None] = ["exact\r\n bytes\t", None, "", "ünïcödé 🙂"]
    rows = [image(index, key, codec, text=texts[index % 4]) for index, key in enumerate(ODD_KEYS)]
    rows += [image(20 + index, f"wide-{index}", codes_THW=codes_THW(index, 1, 2, 9, codec)) for index in range(4)]
    for index in range(2 if codec.supports_video else 0):
        clip: dict[str, Any] = {"fps": 12.5, "frame_start": 2**40, "frame_stride": 3, "extra_json": '{"n":1}'}
        codes = codes_THW(index, t=3)
        rows.append(CodeRecord(f"clip-{index}", 30 + index, "video", codes, None, "v.mp4", bytes(32), 8, 8, **clip))
    return rows


def sequence_rows(codec: Codec = CODEC) -> list[SequenceRecord]:
    """Return valid sequences with an invalid one among them."""
    rows = []
    for index in range(5):
        is_valid = index != 1
        codes = codes_THW(index, codec=codec) if is_valid else np.zeros((0, 0, 0), codec.code_dtype)
        more: dict[str, Any] = {} if is_valid else {"valid": False, "error": "no EOI", "tokens": [1, 2, 2**32 - 1]}
        rows.append(
            SequenceRecord(
                f"s/{index}", index, "image", codes, f"a cat {index}", "p.txt", bytes(32), 32, 48,
                prompt=f"a cat {index}, masterpiece", negative_prompt=None, seed=2**60 + index, guidance_scale=0.1,
                sampling_json='{"top_k":2048}', finish_reason="complete", **more,
            )
        )  # fmt: skip
    return rows


def write_dataset(root: Path, rows: Sequence[CodeRecord], settings: DatasetSettings, unit_rows: int = 3) -> Dataset:
    """Write a dataset whose units hold the rows in their order."""
    dataset = Dataset(root)
    root.mkdir(parents=True)
    planned = [(_size(row), PlannedInput(row.src_index, row.key, row.src_uri)) for row in rows]
    freeze_plan(dataset.plan_path, split_runs(planned, unit_rows), settings, len(rows))
    plan, done = dataset.plan(), 0
    for number in range(len(plan)):
        count = len(plan.unit(number).inputs)
        dataset.commit(UnitResult(number, rows[done : done + count]), plan)
        done += count
    dataset.write_manifest(plan)
    return dataset


def _size(row: CodeRecord) -> Size:
    t, h, w = row.codes_THW.shape
    return (t, h, w) if row.has_grid else REFUSED


def digest(root: Path | str) -> str:
    """Return the digest of a dataset that must be undamaged and complete."""
    report = verify_dataset(Dataset.open(root))
    assert not report.problems
    assert report.is_complete
    return report.digest


def all_rows(root: Path | str) -> list[CodeRecord]:
    dataset = Dataset.open(root)
    return [row for record in dataset.commit_records() for row in dataset.rows(record)]
