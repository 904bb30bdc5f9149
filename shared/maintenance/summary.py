"""Summarizes a dataset from its commit records and a sample of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared.dataset.commit import CommitRecord
from shared.dataset.dataset import Dataset
from shared.dataset.settings import DatasetSettings

SAMPLED_PARTS = 32


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts, grid sizes (`HxW` in codes, `TxHxW` for videos), quality and speed; entropy is in bits per code."""

    units: int
    planned_units: int
    rows: int
    planned_rows: int
    captions: int
    codes: int
    part_bytes: int
    bytes_per_code: float | None
    sizes: dict[str, int]
    quarantined: dict[str, int]
    codebook_size: int
    codebook_used: int
    codebook_entropy_bits: float | None
    codebook_sampled_parts: int
    psnr_db: float | None
    ssim: float | None
    quality_samples: int
    images_per_s: float | None
    settings: DatasetSettings

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "settings": self.settings.to_json()}


def summarize(dataset: Dataset) -> Summary:
    """Read all commit records, and the codes of at most 32 parts spread over the dataset."""
    plan = dataset.plan()
    records = list(dataset.commit_records())
    codes = sum(record.codes for record in records)
    part_bytes = sum(record.part_bytes for record in records)
    sample = _spread_out([record for record in records if record.rows])
    counts_K = _code_counts(dataset, sample, plan.settings.codec.codebook_size)
    quality = [entry for record in records for entry in record.quality]
    return Summary(
        units=len(records),
        planned_units=len(plan),
        rows=sum(record.rows for record in records),
        planned_rows=plan.input_count - sum(plan.retried.values()),
        captions=_captions(dataset, records),
        codes=codes,
        part_bytes=part_bytes,
        bytes_per_code=round(part_bytes / codes, 3) if codes else None,
        sizes=_sizes(records),
        quarantined=_quarantined(records, plan.retried),
        codebook_size=len(counts_K),
        codebook_used=int((counts_K > 0).sum()),
        codebook_entropy_bits=_entropy_bits(counts_K),
        codebook_sampled_parts=len(sample),
        psnr_db=_mean([entry["psnr_db"] for entry in quality]),
        ssim=_mean([entry["ssim"] for entry in quality]),
        quality_samples=len(quality),
        images_per_s=_images_per_s(dataset),
        settings=plan.settings,
    )


def _captions(dataset: Dataset, records: Sequence[CommitRecord]) -> int:
    if not dataset.texts:
        return sum(record.captions for record in records)
    batches = (dataset.texts.apply(batch) for record in records if record.rows for batch in dataset.batches(record))
    return sum(len(batch) - batch.column("text").null_count for batch in batches)


def _sizes(records: Sequence[CommitRecord]) -> dict[str, int]:
    """Return the number of rows by grid size, the most frequent first; rows without a grid are not counted."""
    sizes: Counter[str] = Counter()
    for record in records:
        if record.rows and record.height:
            frames = f"{record.frames}x" if record.frames > 1 else ""
            sizes[f"{frames}{record.height}x{record.width}"] += record.rows
    return dict(sizes.most_common())


def _quarantined(records: Sequence[CommitRecord], retried: dict[str, int]) -> dict[str, int]:
    """Return the number of refused inputs by reason; those that are tried again are not counted."""
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.quarantined)
    reasons.subtract(retried)
    return {reason: count for reason, count in reasons.most_common() if count > 0}


def _spread_out(records: Sequence[CommitRecord]) -> list[CommitRecord]:
    count = min(SAMPLED_PARTS, len(records))
    return [records[index] for index in sorted(set(np.linspace(0, len(records) - 1, count).astype(int)))]


def _code_counts(dataset: Dataset, records: Sequence[CommitRecord], codebook_size: int) -> np.ndarray:
    """Return how often each code occurs, int64 of shape (K,)."""
    counts_K = np.zeros(codebook_size, np.int64)
    for record in records:
        for batch in dataset.batches(record):
            codes = batch.column("codes").values.to_numpy()
            counts_K += np.bincount(codes[codes < codebook_size], minlength=codebook_size)  # others are damaged
    return counts_K


def _entropy_bits(counts_K: np.ndarray) -> float | None:
    shares = counts_K[counts_K > 0] / max(1, counts_K.sum())
    return round(float(-(shares * np.log2(shares)).sum()), 3) if shares.size else None


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _images_per_s(dataset: Dataset) -> float | None:
    """Return the mean speed over the units in the progress log."""
    units = [
        event
        for event in dataset.events.read()
        if isinstance(event.get("rows"), int) and isinstance(event.get("elapsed_s"), int | float)
    ]
    rows, elapsed_s = sum(event["rows"] for event in units), sum(event["elapsed_s"] for event in units)
    return round(rows / elapsed_s, 3) if elapsed_s else None
