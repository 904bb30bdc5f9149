"""A contact sheet of a dataset: rows spread over it, decoded, with their captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.dataset import Dataset
from shared.records import CodeRecord
from vq_stage.decode import check_codec
from vq_stage.sheet import save_sheet
from vq_stage.weights import EMBEDDED_TOKENIZER


def draw_contact_sheet(
    dataset: str, path: str, rows: int = 64, vision_tokenizer: str = str(EMBEDDED_TOKENIZER)
) -> None:
    """Writes a PNG. Raises ConfigMismatchError if the tokenizer is not the dataset's."""
    opened = Dataset.open(dataset)
    check_codec(opened, vision_tokenizer)
    from vq_stage.tokenizer import VisionTokenizer

    tokenizer = VisionTokenizer.from_pretrained(vision_tokenizer)
    chosen = spread_rows(opened, rows)
    pictures = [tokenizer.decode_images(row.codes_THW)[0] for row in chosen]
    save_sheet(Path(path), pictures, [row.text or row.key for row in chosen])


def spread_rows(dataset: Dataset, count: int) -> list[CodeRecord]:
    """At most `count` rows at even distances over all committed rows."""
    records = [record for record in dataset.commit_records() if record.rows]
    total = sum(record.rows for record in records)
    wanted = set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist())
    chosen, first = [], 0
    for record in records:
        if wanted & set(range(first, first + record.rows)):
            chosen += [row for index, row in enumerate(dataset.rows(record), first) if index in wanted]
        first += record.rows
    return chosen
