"""Exports of token sequences from a small dataset, and the sequences that training would take."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lm_stage.data import job_arguments
from lm_stage.data.batch import TrainingBatch, build_batch
from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.data.shuffle import RowStream, epoch_size
from lm_stage.export.options import SequenceExportOptions

SMALL = Path(__file__).parents[1] / "golden" / "written_by_0.1"
CODES, MODEL = SMALL / "codes", SMALL / "model"
ROW = 100


def mixture_options(out: Path, lines: Path) -> SequenceExportOptions:
    """Return options for captions, questions and texts, of which every weight but 1 has its effect."""
    datasets = (str(CODES), f"{CODES},task=understand,weight=0.5", f"{lines},task=text,weight=3")
    return SequenceExportOptions(
        datasets, str(out), format="megatron", model=str(MODEL), seq_length=ROW, caption_dropout=0.5
    )


def open_mixture(options: SequenceExportOptions) -> Mixture:
    """Open the mixture as a training run does."""
    return job_arguments.open_mixture(options, options.entries, job_arguments.open_model(options))


def trained_rows(
    mixture: Mixture, options: SequenceExportOptions
) -> tuple[list[list[TrainingSequence]], TrainingBatch]:
    """Return all rows of the epochs as a training run takes them: their samples, and one batch of all rows."""
    stream, rows = RowStream(mixture, options.seed, options.caption_dropout), []
    while sum(map(len, rows)) < options.epochs * epoch_size(mixture):
        rows.append(next(stream))
    samples = [
        [mixture.sample_sets[one.sample_set].sequence(one.index, one.drop_caption) for one in row] for row in rows
    ]
    return samples, build_batch(rows, mixture)


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
