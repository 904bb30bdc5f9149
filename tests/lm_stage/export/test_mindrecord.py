"""MindRecord: the rows that training takes, read back by MindSpore's own readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.export import mindrecord
from lm_stage.export.job import export_sequences
from lm_stage.export.mindrecord import COLUMNS, IGNORED_LABEL, record_of
from lm_stage.export.options import SequenceExportOptions
from tests.support.sequence_exports import ROW, contents, trained_rows


def sample(length: int, prompt: int) -> TrainingSequence:
    weights = np.ones(length, np.float32)
    weights[:prompt] = 0
    return TrainingSequence(np.arange(10, 10 + length, dtype=np.int32), weights)


def test_the_columns_of_a_row() -> None:
    record = record_of([sample(3, 1), sample(4, 3)], 9, 4, 0)
    assert {name: column.tolist() for name, column in record.items()} == {
        "input_ids": [10, 11, 12, 10, 11, 12, 13, 0, 0],
        "labels": [11, 12, -100, -100, -100, 13, -100, -100, -100],
        "loss_mask": [1, 1, 0, 0, 0, 1, 0, 0, 0],
        "position_ids": [0, 1, 2, 0, 1, 2, 3, 0, 0],
        "actual_seq_len": [3, 7, 9, 9],
    }
    assert {name: str(column.dtype) for name, column in record.items()} == COLUMNS


def test_rows_are_those_of_training_and_bytes_repeat(
    options: SequenceExportOptions, mixture: Mixture, tmp_path: Path
) -> None:
    from mindspore.dataset import MindDataset
    from mindspore.mindrecord import FileReader

    options = replace(options, format="mindrecord")
    result = export_sequences(options)
    path, batch = str(tmp_path / "out" / mindrecord.FILE_NAME), trained_rows(mixture, options)[1]
    reader = FileReader(path)
    read = list(reader.get_next())
    reader.close()
    assert len(read) == len(batch.token_ids_BL) == result.documents
    for name, expected in (
        ("input_ids", batch.token_ids_BL),
        ("loss_mask", batch.weights_BL),
        ("position_ids", batch.positions_BL),
        ("labels", np.where(batch.weights_BL > 0, batch.targets_BL, IGNORED_LABEL)),
    ):
        assert np.array_equal(np.stack([row[name] for row in read]), expected), name
    dataset = MindDataset(path, columns_list=list(COLUMNS), shuffle=False)
    again = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert [row["input_ids"].tolist() for row in again] == batch.token_ids_BL.tolist()
    assert {name: (str(value.dtype), value.shape) for name, value in again[0].items()} == {
        name: (dtype, (128,) if name == "actual_seq_len" else (ROW,)) for name, dtype in COLUMNS.items()
    }
    export_sequences(replace(options, out=str(tmp_path / "second")))
    assert contents(tmp_path / "second") == contents(tmp_path / "out")
