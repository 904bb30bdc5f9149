"""A contact sheet of a dataset: evenly spaced rows, decoded, with their captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.dataset.dataset import Dataset
from shared.dataset.rows import CodeRecord
from shared.dataset.settings import ANSWER_FORMAT
from shared.errors import UsageError
from vq_stage.decode.codec_check import check_codec
from vq_stage.media.image_grid import save_sheet
from vq_stage.model.weights import EMBEDDED_TOKENIZER

if TYPE_CHECKING:
    from vq_stage.tokenizer import VisionTokenizer


def draw_contact_sheet(
    dataset: str, path: str, rows: int = 64, vision_tokenizer: str = str(EMBEDDED_TOKENIZER), device: str = "auto"
) -> None:
    """Write a PNG of at most `rows` rows; generated sequences that are no image are left out.

    Raises ConfigMismatchError if the tokenizer is not the dataset's, UsageError for answers of text and images.
    """
    opened = Dataset.open(dataset)
    check_codec(opened, vision_tokenizer)
    if opened.plan().settings.format == ANSWER_FORMAT:
        raise UsageError(f"{dataset}: holds answers of text and images; `emu3 decode` writes a page for each")
    from vq_stage.tokenizer import VisionTokenizer

    tokenizer = VisionTokenizer.from_pretrained(vision_tokenizer, device)
    chosen = [row for row in evenly_spaced_rows(opened, rows) if row.has_grid]
    pictures = [first_frame(tokenizer, row) for row in chosen]
    save_sheet(Path(path), pictures, [row.text or row.key for row in chosen])


def first_frame(tokenizer: VisionTokenizer, row: CodeRecord) -> np.ndarray:
    """Return the image, or the first frame of a clip, as uint8 (H, W, 3)."""
    codes_THW = row.codes_THW[:1]
    return (tokenizer.decode_video if row.kind == "video" else tokenizer.decode_images)(codes_THW)[0]


def evenly_spaced_rows(dataset: Dataset, count: int) -> list[CodeRecord]:
    """Return at most `count` rows at even distances over all committed rows."""
    records = [record for record in dataset.commit_records() if record.rows]
    total = sum(record.rows for record in records)
    wanted = set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist())
    chosen, first = [], 0
    for record in records:
        if wanted & set(range(first, first + record.rows)):
            chosen += [row for index, row in enumerate(dataset.rows(record), first) if index in wanted]
        first += record.rows
    return chosen
