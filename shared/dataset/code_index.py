"""Rows of a dataset by key: where each stands, and its codes read from there when asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from shared.dataset.dataset import Dataset
from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError, RefusedInput


class CodeIndex:
    """Key to row over all committed units. Raises DatasetError if a part does not match its checksum."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._places: dict[str, tuple[int, int]] = {}
        self._videos: set[str] = set()
        for record in dataset.commit_records():
            dataset.check_part(record)
            row = 0
            for batch in dataset.batches(record):
                for key, kind in zip(batch.column("key").to_pylist(), batch.column("kind").to_pylist()):
                    self._places[key] = (record.unit, row)
                    row += 1
                    if kind == "video":
                        self._videos.add(key)
        self._rows = lru_cache(maxsize=8)(self._read_unit)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of units and rows."""
        return iter(self._places)

    def row(self, key: str) -> CodeRecord:
        """Raises RefusedInput if there is no such row, DatasetError if its part is damaged."""
        if key not in self._places:
            raise RefusedInput("missing_image", f"{self.dataset.root} has no row {key!r}")
        unit, row = self._places[key]
        return self._rows(unit)[row]

    def image(self, key: str) -> np.ndarray:
        """Codes (H, W) of an image. Raises RefusedInput if there is none of this key, or it is no image."""
        record = self.row(key)
        if record.kind != "image" or not record.has_grid:
            raise RefusedInput("missing_image", f"{self.dataset.root}: row {key!r} is not an image")
        return record.codes_THW[0]

    def is_video(self, key: str) -> bool:
        """Whether the row of this key is a video's; not so if there is no such row."""
        return key in self._videos

    def clip(self, key: str) -> CodeRecord:
        """A row with codes (T, H, W): a video, or an image as a clip of one frame. Raises RefusedInput if none."""
        record = self.row(key)
        if not record.has_grid:
            raise RefusedInput("missing_image", f"{self.dataset.root}: row {key!r} has no codes")
        return record

    def _read_unit(self, unit: int) -> list[CodeRecord]:
        rows = list(self.dataset.rows(self.dataset.record(unit)))
        if not rows:
            raise DatasetError(f"{self.dataset.root}: unit {unit} has no rows any more")
        return rows
