"""Continuous batching: sequences decode together, and a finished one makes room for the next.

Shape suffixes: R rows of the KV cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from lm_stage.inference.options import SamplingOptions

if TYPE_CHECKING:
    from lm_stage.model.backend import CachedModel

Request = TypeVar("Request")
Running = TypeVar("Running")


class ContinuousBatch(ABC, Generic[Request, Running]):
    """`add` requests until the batch `is_full`, then `step` until they are done; or let `run` do both.

    Sequence i of n takes row i of the KV cache, and row n + i too with two rows a sequence.
    """

    def __init__(self, model: CachedModel, sampling: SamplingOptions, rows_per_sequence: int = 1):
        self.model = model
        self.sampling = sampling
        self.batch_size = model.rows // rows_per_sequence
        self.sequences: list[Running | None] = [None] * self.batch_size
        self.token_ids_R = np.zeros(model.rows, np.int32)
        self.positions_R = np.zeros(model.rows, np.int32)

    @property
    def is_full(self) -> bool:
        return None not in self.sequences

    @property
    def running(self) -> list[Running]:
        return [sequence for _, sequence in self._running()]

    def _running(self) -> list[tuple[int, Running]]:
        """Return the running sequences with their indices."""
        return [(index, sequence) for index, sequence in enumerate(self.sequences) if sequence is not None]

    def _remove(self, index: int) -> None:
        """Free the rows of a sequence; at position 0, they keep no cache long."""
        self.sequences[index] = None
        self.positions_R[index :: self.batch_size] = 0

    @abstractmethod
    def add(self, request: Request) -> Running:
        """Prefill the prompt of a request and start its sequence. The batch must not be full."""

    @abstractmethod
    def step(self) -> list[Running]:
        """Run one forward for all running sequences; remove and return those that it completed."""

    def run(self, requests: Iterable[Request]) -> Iterator[Running]:
        """Generate every request; yield the sequences in the order in which they finish."""
        waiting = iter(requests)
        while True:
            while not self.is_full and (request := next(waiting, None)) is not None:
                self.add(request)
            if not self.running:
                return
            yield from self.step()
