"""Samples from the rows of a codes or sequence dataset: the base of all of them, and captioned images and videos.

Shape suffixes: T frames, H W grid.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.data.sequences import EncodedTexts, SequenceBuilder, TrainingSequence
from lm_stage.text.renderer import CodeGrid
from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.dataset.readers import RowReader
from shared.errors import DatasetError
from shared.storage.digests import digest_of
from shared.text import is_text


class DatasetSamples:
    """The rows of some kinds that have a grid. The texts are encoded once, here; the codes stay on disk.

    Raises DatasetError, naming the path, if the dataset is incomplete or damaged.
    """

    def __init__(self, path: Path, builder: SequenceBuilder, kinds: Sequence[str], keeps_damaged: bool):
        dataset = Dataset.open(path)
        plan = dataset.plan()
        records = dataset.complete_records(plan)
        self.builder = builder
        self.codec: Codec | None = plan.settings.codec
        content = {"plan": plan.sha256, "parts": [record.part_sha256 for record in records]}
        self.fingerprint = digest_of({**content, "texts": dataset.texts.sha256} if dataset.texts else content)
        self.rows = RowReader(dataset, keeps_damaged)
        shapes_THW = self.rows.shapes_THW()
        kind_of_row = np.array(self.rows.column("kind"), object)
        has_grid = shapes_THW.all(axis=1)  # generated sequences that failed have none
        self.row_indices = np.flatnonzero(np.isin(kind_of_row, kinds) & has_grid)
        self.shapes_THW = shapes_THW[self.row_indices]
        self.is_video = kind_of_row[self.row_indices] == "video"
        self.keys = self.column("key")

    def column(self, name: str) -> list[Any]:
        values = self.rows.column(name)
        return [values[index] for index in self.row_indices]

    @property
    def has_videos(self) -> bool:
        return bool(self.is_video.any())

    def select(self, indices: Sequence[int] | np.ndarray) -> None:
        """Keep these samples only; an index that is repeated makes several samples of one row."""
        self.row_indices = self.row_indices[indices]
        self.shapes_THW, self.is_video = self.shapes_THW[indices], self.is_video[indices]
        self.keys = [self.keys[index] for index in indices]

    def grid(self, index: int) -> CodeGrid:
        """Return the image or video of a sample. Raises DatasetError if its codes are damaged."""
        codes_THW = self.rows.codes_THW(int(self.row_indices[index]))
        largest, size = int(codes_THW.max()), self.builder.layout.codebook_size
        if largest >= size:
            raise DatasetError(
                f"{self.rows.dataset.root}: row {self.keys[index]!r}: code {largest}: expected less than {size}"
            )
        return CodeGrid(codes_THW, bool(self.is_video[index]))

    def grid_lengths(self) -> np.ndarray:
        """Return the tokens of each image or video with its header, int64 (n,); each distinct size is counted once."""
        described = np.column_stack((self.is_video, self.shapes_THW)).astype(np.int64)
        sizes, size_of_sample = np.unique(described, axis=0, return_inverse=True)
        lengths = [self.builder.grid_length(bool(is_video), t, h, w) for is_video, t, h, w in sizes.tolist()]
        return np.array(lengths, np.int64)[size_of_sample.reshape(-1)]


def row_texts(text: str | None, extra_json: str | None) -> list[str]:
    """Return all captions of a row; an empty one if it has none."""
    if extra_json and '"texts":' in extra_json:
        with suppress(ValueError, AttributeError):  # of a damaged row, which is noticed when it is read
            texts = json.loads(extra_json).get("texts")
            if texts and isinstance(texts, list) and all(one and is_text(one) for one in texts):
                return texts
    return [text or ""]


class CaptionSamples(DatasetSamples):
    """Caption to image, or caption to video: a sample for each caption of a row.

    A row without a caption trains the unconditional model.
    """

    def __init__(self, path: Path, builder: SequenceBuilder, kind: str, keeps_damaged: bool):
        super().__init__(path, builder, [kind], keeps_damaged)
        texts_of_rows = list(map(row_texts, self.column("text"), self.column("extra_json")))
        captions = [text for texts in texts_of_rows for text in texts]
        self.select(np.repeat(np.arange(len(texts_of_rows)), list(map(len, texts_of_rows))))
        self.unusable: list[tuple[str, str]] = []
        self.without_text: Sequence[str] = [key for key, text in zip(self.keys, captions) if not text]
        text_to_image, unconditional = builder.prompting.text_to_image, builder.prompting.unconditional
        prompts = (text_to_image.question_text(text) if text else unconditional.question_text("") for text in captions)
        self.prompts = EncodedTexts(prompts, len(self.keys), builder.encode, path.name)
        lengths = self.grid_lengths() + builder.tokens_around
        self.captionless_lengths = lengths + len(builder.unconditional_ids)
        self.lengths = lengths + self.prompts.lengths

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        prompt_ids = self.builder.unconditional_ids if drop_caption else self.prompts[index]
        return self.builder.captioned(prompt_ids, self.grid(index))
