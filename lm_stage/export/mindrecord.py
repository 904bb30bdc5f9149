"""Packed rows as MindRecord, written by MindSpore, in the columns that MindFormers gives to a model.

| input_ids       | int32 (L,)    | token ids, filled up with the padding token                                |
| labels          | int32 (L,)    | the next token, or -100 where it has no weight                             |
| loss_mask       | float32 (L,)  | the weight of that prediction                                              |
| position_ids    | int32 (L,)    | positions within each sample                                               |
| actual_seq_len  | int32 (S,)    | where each sample ends, then L; S is equal in all rows, a multiple of 128  |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_stage.data.batch import TrainingBatch
from lm_stage.data.sequences import TrainingSequence

FILE_NAME = "rows.mindrecord"
IGNORED_LABEL = -100
COLUMNS = {
    "input_ids": "int32",
    "labels": "int32",
    "loss_mask": "float32",
    "position_ids": "int32",
    "actual_seq_len": "int32",
}
_ENDS_MULTIPLE = 128  # MindFormers' default length of actual_seq_len
_BYTES_PER_WRITE = 8 << 20


class MindRecordFile:
    """Writes one record for each row of `row_length` tokens. Implements `SequenceFiles`."""

    def __init__(self, folder: Path, row_length: int, most_samples: int, pad: int):
        from mindspore.mindrecord import FileWriter

        self.types = dict(COLUMNS)
        self.documents = self.tokens = 0
        self._row_length, self._pad = row_length, pad
        self._ends = -(-(most_samples + 1) // _ENDS_MULTIPLE) * _ENDS_MULTIPLE
        self._rows_per_write = max(1, _BYTES_PER_WRITE // (16 * row_length))
        self._rows: list[dict[str, np.ndarray]] = []
        self._path = folder / FILE_NAME
        self._writer: Any = FileWriter(str(self._path), shard_num=1)
        self._writer.add_schema({name: {"type": dtype, "shape": [-1]} for name, dtype in COLUMNS.items()})

    def add(self, sequences: Sequence[TrainingSequence]) -> None:
        """Append a row of samples."""
        if not sequences:
            return
        self._rows.append(record_of(sequences, self._row_length, self._ends, self._pad))
        self.documents += 1
        self.tokens += self._row_length
        if len(self._rows) == self._rows_per_write:
            self._write()

    def _write(self) -> None:
        self._writer.write_raw_data(self._rows)
        self._rows = []

    def close(self, *, is_complete: bool) -> None:
        if not is_complete:
            return
        if self._rows:
            self._write()
        self._writer.commit()
        for path in (self._path, self._path.with_name(f"{FILE_NAME}.db")):
            path.chmod(0o644)  # MindSpore gives only their owner access


def record_of(sequences: Sequence[TrainingSequence], row_length: int, ends: int, pad: int) -> dict[str, np.ndarray]:
    """Return the columns of a row of samples; `ends` is the length of `actual_seq_len`."""
    batch, begin, ends_of_samples = TrainingBatch.empty(1, row_length, pad), 0, []
    for segment, sequence in enumerate(sequences):
        begin = batch.write(0, begin, segment, sequence)
        ends_of_samples.append(begin)
    weights = batch.weights_BL[0]
    return {
        "input_ids": batch.token_ids_BL[0],
        "labels": np.where(weights > 0, batch.targets_BL[0], IGNORED_LABEL).astype(np.int32),
        "loss_mask": weights,
        "position_ids": batch.positions_BL[0],
        "actual_seq_len": np.array(ends_of_samples + [row_length] * (ends - len(ends_of_samples)), np.int32),
    }
