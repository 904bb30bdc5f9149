"""The order of training samples: a function of (datasets, seed, row number), whatever the number of processes.

Every epoch is a permutation under its own key. Windows of it are packed into rows, and the rows of a window are
permuted again. Steps take rows from one endless stream. The state of the stream is small and independent of how many
rows were taken, so that a checkpoint can store it and a resumed run continues without replaying the packing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import MixtureEntry
from lm_stage.data.packing import pack_best_fit

WINDOW = 4096  # samples that are packed together


@dataclass(frozen=True, slots=True)
class PackedSample:
    """A sample in a row: the index of its sample set in the mixture, its index in the set, and how it is built."""

    sample_set: int
    index: int
    drop_caption: bool


@dataclass(frozen=True, slots=True)
class StreamState:
    """The position of a `RowStream`: after `row` rows of the window that begins at sample `window_begin` of `epoch`.

    `generator` is the state of the epoch's row generator before it permuted the rows of this window, as 11 integers:
    the Philox counter (4), its buffer (4), the position in the buffer, and the cached half of a word (2).
    """

    epoch: int
    window_begin: int
    row: int
    generator: tuple[int, ...]

    def to_array(self) -> np.ndarray:
        """Return uint64 (14,) for a checkpoint."""
        return np.array([self.epoch, self.window_begin, self.row, *self.generator], np.uint64)

    @classmethod
    def from_array(cls, array: np.ndarray) -> StreamState:
        """Read an array of `to_array`. Raises ValueError if its shape is wrong."""
        if array.shape != (14,):
            raise ValueError(f"state of the row stream: expected 14 numbers, got shape {array.shape}")
        epoch, window_begin, row, *generator = map(int, array)
        return cls(epoch, window_begin, row, tuple(generator))


def epoch_order(mixture: Mixture, seed: int, epoch: int) -> np.ndarray:
    """Return (n, 2): sample set and index of every sample of an epoch, in order; the weights decide how often."""
    random = _generator(seed, epoch, "order")
    chosen = []
    for number, (entry, indices) in enumerate(zip(mixture.entries, mixture.sample_indices)):
        count = _epoch_count(entry, indices)
        rounds = [random.permutation(indices) for _ in range(-(-count // len(indices)))]
        chosen.append(np.stack((np.full(count, number), np.concatenate(rounds)[:count]), axis=1))
    return random.permutation(np.concatenate(chosen))


def epoch_size(mixture: Mixture) -> int:
    """Return how many samples an epoch has."""
    return sum(_epoch_count(entry, indices) for entry, indices in zip(mixture.entries, mixture.sample_indices))


def _epoch_count(entry: MixtureEntry, indices: np.ndarray) -> int:
    return max(1, round(entry.weight * len(indices)))


class RowStream:
    """An endless iterator over rows of packed samples, from its beginning or from a state.

    `state` is the state after the row that was returned last.
    """

    def __init__(self, mixture: Mixture, seed: int, caption_dropout: float, state: StreamState | None = None):
        self.mixture, self.seed, self.caption_dropout = mixture, seed, caption_dropout
        self._begin_epoch(state.epoch if state else 0)
        if state:
            _restore(self._random, state.generator)
        self.state = state or StreamState(0, 0, 0, _state_of(self._random))
        self._rows = self._pack_window()

    def __iter__(self) -> RowStream:
        return self

    def __next__(self) -> list[PackedSample]:
        if self.state.row == len(self._rows):
            self._next_window()
        row = self._rows[self.state.row]
        self.state = replace(self.state, row=self.state.row + 1)
        return row

    def skip(self, rows: int) -> None:
        """Advance by a number of rows; the packing of all of them is replayed."""
        for _ in range(rows):
            next(self)

    def _next_window(self) -> None:
        epoch, begin = self.state.epoch, self.state.window_begin + WINDOW
        if begin >= len(self._order):
            epoch, begin = epoch + 1, 0
            self._begin_epoch(epoch)
        self.state = StreamState(epoch, begin, 0, _state_of(self._random))
        self._rows = self._pack_window()

    def _begin_epoch(self, epoch: int) -> None:
        self._order = epoch_order(self.mixture, self.seed, epoch)
        self._random = _generator(self.seed, epoch, "rows")

    def _pack_window(self) -> list[list[PackedSample]]:
        begin, epoch, sets = self.state.window_begin, self.state.epoch, self.mixture.sample_sets
        samples, lengths = [], []
        for number, index in self._order[begin : begin + WINDOW].tolist():
            drop = drops_caption(self.mixture, self.seed, epoch, number, index, self.caption_dropout)
            samples.append(PackedSample(number, index, drop))
            lengths.append(int((sets[number].captionless_lengths if drop else sets[number].lengths)[index]))
        rows = pack_best_fit(lengths, self.mixture.seq_length)
        return [[samples[i] for i in rows[row]] for row in self._random.permutation(len(rows)).tolist()]


def drops_caption(mixture: Mixture, seed: int, epoch: int, sample_set: int, index: int, share: float) -> bool:
    """Whether a sample trains without its caption in this epoch, keyed by (seed, epoch, key).

    Only images and videos that are generated from captions can do without.
    """
    if not share or not mixture.entries[sample_set].is_generation:
        return False
    key = mixture.sample_sets[sample_set].keys[index]
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _state_of(random: np.random.Generator) -> tuple[int, ...]:
    """Return the state of a Philox generator without its key."""
    state: Any = random.bit_generator.state
    rest = state["buffer_pos"], state["has_uint32"], state["uinteger"]
    return tuple(map(int, (*state["state"]["counter"], *state["buffer"], *rest)))


def _restore(random: np.random.Generator, values: tuple[int, ...]) -> None:
    """Restore a state that `_state_of` returned."""
    state: Any = random.bit_generator.state
    state["state"]["counter"], state["buffer"] = np.array(values[:4], np.uint64), np.array(values[4:8], np.uint64)
    state["buffer_pos"], state["has_uint32"], state["uinteger"] = values[8:]
    random.bit_generator.state = state
