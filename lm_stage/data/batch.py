"""Rows of packed samples as arrays, in which no sample attends to another, and the batches of every optimizer step.

The rows of a step are divided among the processes that train together, and built ahead of the device.

Shape suffixes: B rows, L tokens, M = B·L, K supervised positions and some others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.sequences import TrainingSequence
from lm_stage.data.shuffle import PackedSample, RowStream, StreamState, epoch_order
from shared.errors import DatasetError
from shared.jobs.prefetch import prefetch_map
from shared.jobs.signals import StopFlag

PADDING = -1  # segment of positions without a sample
BUCKETS = 8  # shapes to compile for, those that occur: the logits of a batch cover 1/8, 2/8, … of its positions
MICRO_BATCHES_AHEAD = 4  # built before the device needs them
Row = list[PackedSample]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """int32 token ids, targets, positions and segments (B, L), float32 weights (B, L), and the samples' keys."""

    token_ids_BL: np.ndarray
    targets_BL: np.ndarray
    weights_BL: np.ndarray
    positions_BL: np.ndarray
    segments_BL: np.ndarray
    keys: tuple[str, ...]

    @classmethod
    def empty(cls, rows: int, seq_length: int, pad: int, keys: tuple[str, ...] = ()) -> TrainingBatch:
        """Return a batch of padding only."""
        shape = rows, seq_length
        token_ids, targets = np.full(shape, pad, np.int32), np.full(shape, pad, np.int32)
        weights, positions = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
        return cls(token_ids, targets, weights, positions, np.full(shape, PADDING, np.int32), keys)

    @property
    def useful_tokens(self) -> int:
        """Tokens other than padding."""
        return int((self.segments_BL != PADDING).sum())

    @property
    def total_weight(self) -> float:
        return float(self.weights_BL.sum(dtype=np.float64))

    @property
    def target_bucket(self) -> int:
        """The smallest bucket, from 1 to 8, whose share of all positions has room for those with a weight."""
        return max(1, -(-int(np.count_nonzero(self.weights_BL)) // self._bucket_size))

    @property
    def _bucket_size(self) -> int:
        return -(-self.weights_BL.size // BUCKETS)

    def supervised(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return flat indices (K,) of the positions with a weight, and their targets and weights.

        Positions without a weight fill up the bucket, so that there are at most eight shapes to compile for.
        """
        weights_M = self.weights_BL.reshape(-1)
        weighted, others = np.flatnonzero(weights_M), np.flatnonzero(weights_M == 0)
        indices_K = np.concatenate((weighted, others))[: bucket * self._bucket_size].astype(np.int32)
        return indices_K, self.targets_BL.reshape(-1)[indices_K], weights_M[indices_K]

    def write(self, row: int, begin: int, segment: int, sequence: TrainingSequence) -> int:
        """Write a sample at token `begin` of a row and return where it ends; its last token has no target."""
        length = len(sequence.token_ids)
        end = begin + length
        self.token_ids_BL[row, begin:end] = sequence.token_ids
        self.targets_BL[row, begin : end - 1] = sequence.token_ids[1:]
        self.weights_BL[row, begin : end - 1] = sequence.weights[1:]
        self.positions_BL[row, begin:end] = np.arange(length)
        self.segments_BL[row, begin:end] = segment
        return end


def build_batch(
    rows: Sequence[Sequence[PackedSample]], mixture: Mixture, on_damaged: Callable[[str], None] | None = None
) -> TrainingBatch:
    """Build the arrays of some rows; for damaged samples see `row_sequences`."""
    keys = tuple(mixture.sample_sets[sample.sample_set].keys[sample.index] for row in rows for sample in row)
    batch = TrainingBatch.empty(len(rows), mixture.seq_length, mixture.builder.layout.pad, keys)
    for number, row in enumerate(rows):
        begin = 0
        for segment, sequence in enumerate(row_sequences(row, mixture, on_damaged)):
            begin = batch.write(number, begin, segment, sequence)
    return batch


def row_sequences(
    row: Sequence[PackedSample], mixture: Mixture, on_damaged: Callable[[str], None] | None
) -> Iterator[TrainingSequence]:
    """Build the samples of a row.

    A damaged sample is left out and reported to `on_damaged`; without that callback it raises DatasetError.
    """
    for sample in row:
        try:
            yield _build_sequence(sample, mixture)
        except DatasetError as error:
            if on_damaged is None:
                raise
            on_damaged(str(error))


def _build_sequence(sample: PackedSample, mixture: Mixture) -> TrainingSequence:
    """Build a sample. Raises DatasetError, naming its dataset and key, if it is damaged or cannot be read."""
    samples = mixture.sample_sets[sample.sample_set]
    try:
        return samples.sequence(sample.index, sample.drop_caption)
    except (OSError, ValueError) as error:  # of the disk, or of Arrow
        path, key = mixture.entries[sample.sample_set].path, samples.keys[sample.index]
        raise DatasetError(f"{path}: row {key!r}: cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class BatchDivision:
    """Divides the rows of a step into micro-batches, which go to the processes in turn."""

    micro_batch_size: int
    accumulation_steps: int = 1
    rank: int = 0
    processes: int = 1

    @property
    def rows_per_step(self) -> int:
        return self.micro_batch_size * self.accumulation_steps * self.processes

    def own_micro_batches(self, rows: Sequence[T]) -> list[Sequence[T]]:
        """Return the micro-batches of this process, each a slice of the rows."""
        size = self.micro_batch_size
        return [rows[begin : begin + size] for begin in range(0, len(rows), size)][self.rank :: self.processes]


@dataclass(frozen=True, slots=True)
class StepData:
    """This process's micro-batches of one step, and the state of the row stream after the step."""

    batches: list[TrainingBatch]
    stream_state: StreamState


def step_batches(
    stream: RowStream,
    division: BatchDivision,
    on_damaged: Callable[[str], None] | None = None,
    stop: StopFlag | None = None,
) -> Generator[StepData, None, None]:
    """Yield the data of every step from the stream's present state on, without end.

    Raises DatasetError, at the step that needs it, for a damaged sample unless `on_damaged` is given, and Interrupted
    if `stop` is set and the next batch does not come soon.
    """

    def own_parts() -> Iterator[tuple[Sequence[Row], StreamState]]:
        while True:
            rows = list(islice(stream, division.rows_per_step))
            for part in division.own_micro_batches(rows):
                yield part, stream.state

    def build(item: tuple[Sequence[Row], StreamState]) -> tuple[TrainingBatch, StreamState]:
        part, state = item
        return build_batch(part, stream.mixture, on_damaged), state

    with closing(prefetch_map(build, own_parts(), 1, MICRO_BATCHES_AHEAD, stop)) as built:
        while True:
            batches, states = zip(*islice(built, division.accumulation_steps))
            yield StepData(list(batches), states[-1])


def held_out_batches(
    mixture: Mixture, division: BatchDivision, on_damaged: Callable[[str], None] | None = None
) -> list[TrainingBatch]:
    """Build this process's batches of one pass over all held-out samples, always in the same order."""
    stream, rows, remaining = RowStream(mixture, 0, 0.0), [], len(epoch_order(mixture, 0, 0))
    while remaining > 0:
        rows.append(next(stream))
        remaining -= len(rows[-1])
    rows += [[]] * (-len(rows) % division.micro_batch_size)  # all batches have one shape
    return [build_batch(part, mixture, on_damaged) for part in division.own_micro_batches(rows)]
