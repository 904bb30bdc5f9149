"""The batches of each optimizer step, divided among the processes that train together and built ahead of the device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from lm_stage.data.batch import TrainingBatch, build_batch
from lm_stage.data.mixture import Mixture
from lm_stage.data.shuffle import PackedSample, RowStream, StreamState, epoch_order
from shared.jobs.prefetch import prefetch_map

STEPS_AHEAD = 2
Row = list[PackedSample]
T = TypeVar("T")


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
    stream: RowStream, division: BatchDivision, on_damaged: Callable[[str], None] | None = None
) -> Generator[StepData, None, None]:
    """Yield the data of every step from the stream's present state on, without end.

    Raises DatasetError, at the step that needs it, for a damaged sample unless `on_damaged` is given.
    """

    def rows_of_steps() -> Iterator[tuple[list[Row], StreamState]]:
        while True:
            yield list(islice(stream, division.rows_per_step)), stream.state

    def build(step: tuple[list[Row], StreamState]) -> StepData:
        rows, state = step
        own = division.own_micro_batches(rows)
        return StepData([build_batch(part, stream.mixture, on_damaged) for part in own], state)

    return prefetch_map(build, rows_of_steps(), 1, STEPS_AHEAD)


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
