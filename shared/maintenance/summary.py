"""What is in a dataset, from its commit records and a sample of its parts; answers in well under a second."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared.dataset.dataset import CommitRecord, Dataset
from shared.dataset.settings import DatasetSettings

SAMPLED_PARTS = 32


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts, sizes (`HxW` in codes, `TxHxW` of clips), quality, speed; entropy is in bits a code."""

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
    """Reads all commit records, and the codes of at most 32 parts spread over the dataset."""
    plan = dataset.plan()
    records = list(dataset.commit_records())
    sizes: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    for record in records:
        if record.rows:
            sizes[_size(record)] += record.rows
        quarantined.update(record.quarantined)
    quarantined.subtract(plan.retried)
    codes = sum(record.codes for record in records)
    part_bytes = sum(record.part_bytes for record in records)
    counts_K, sampled = _code_counts(dataset, records, plan.settings.codec.codebook_size)
    quality = [sample for record in records for sample in record.quality]
    return Summary(
        units=len(records),
        planned_units=len(plan),
        rows=sum(record.rows for record in records),
        planned_rows=plan.input_count - sum(plan.retried.values()),
        captions=sum(record.captions for record in records),
        codes=codes,
        part_bytes=part_bytes,
        bytes_per_code=round(part_bytes / codes, 3) if codes else None,
        sizes=dict(sizes.most_common()),
        quarantined={reason: count for reason, count in quarantined.most_common() if count > 0},
        codebook_size=len(counts_K),
        codebook_used=int((counts_K > 0).sum()),
        codebook_entropy_bits=_entropy_bits(counts_K),
        codebook_sampled_parts=sampled,
        psnr_db=_mean([sample["psnr_db"] for sample in quality]),
        ssim=_mean([sample["ssim"] for sample in quality]),
        quality_samples=len(quality),
        images_per_s=_rate(dataset),
        settings=plan.settings,
    )


def _size(record: CommitRecord) -> str:
    frames = f"{record.frames}x" if record.frames > 1 else ""
    return f"{frames}{record.height}x{record.width}"


def _code_counts(dataset: Dataset, records: list[CommitRecord], codebook_size: int) -> tuple[np.ndarray, int]:
    filled = [record for record in records if record.rows]
    chosen = [
        filled[i] for i in sorted(set(np.linspace(0, len(filled) - 1, min(SAMPLED_PARTS, len(filled))).astype(int)))
    ]
    counts_K = np.zeros(codebook_size, np.int64)
    for record in chosen:
        for batch in dataset.batches(record):
            counts_K += np.bincount(batch.column("codes").values.to_numpy(), minlength=codebook_size)[:codebook_size]
    return counts_K, len(chosen)


def _entropy_bits(counts_K: np.ndarray) -> float | None:
    used = counts_K[counts_K > 0] / max(1, counts_K.sum())
    return round(float(-(used * np.log2(used)).sum()), 3) if used.size else None


def _mean(values: list[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def _rate(dataset: Dataset) -> float | None:
    """Images a second while units were being encoded, from the log of progress."""
    units = [event for event in dataset.events() if {"rows", "elapsed_s"} <= set(event)]
    rows, elapsed_s = sum(event["rows"] for event in units), sum(event["elapsed_s"] for event in units)
    return round(rows / elapsed_s, 3) if elapsed_s else None
