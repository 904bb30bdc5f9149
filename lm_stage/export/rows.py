"""The rows that `emu3 sft` trains on with the same mixture and seed, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from lm_stage.data.batch import Row
from lm_stage.data.mixture import Mixture
from lm_stage.data.shuffle import RowStream, epoch_size
from lm_stage.export.options import SequenceExportOptions


def planned_rows(mixture: Mixture, options: SequenceExportOptions) -> Iterator[Row]:
    """Yield the rows of all epochs in the order of training; an epoch ends with a row of its own."""
    stream = RowStream(mixture, options.seed, options.caption_dropout)
    remaining = planned_samples(mixture, options)
    while remaining > 0:
        row = next(stream)
        remaining -= len(row)
        yield row


def planned_samples(mixture: Mixture, options: SequenceExportOptions) -> int:
    """Return how many samples all epochs have."""
    return options.epochs * epoch_size(mixture)


def most_samples_in_a_row(mixture: Mixture, options: SequenceExportOptions) -> int:
    """Return the largest number of samples in any row; no sequence is built."""
    most = 0
    with tqdm(total=planned_samples(mixture, options), desc="pack", unit="sample", disable=None, leave=False) as bar:
        for row in planned_rows(mixture, options):
            most = max(most, len(row))
            bar.update(len(row))
    return most
