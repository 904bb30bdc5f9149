"""In which order samples are trained on: a function of (datasets, seed, place) with no other state.

Every epoch is a permutation by its own key; windows of it are packed into rows, whose order within the window is
permuted again. A step takes the next rows of one endless stream, so a run that goes on at row n, on whatever number
of devices, sees what an unbroken one would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from lm_stage.data.mixture import Mixture
from lm_stage.data.packing import pack_best_fit

WINDOW = 4096  # samples packed together


@dataclass(frozen=True, slots=True)
class PlacedSample:
    """A sample in a row: number of its source, number within it, whether its caption is dropped."""

    source: int
    index: int
    is_bare: bool


def epoch_members(mixture: Mixture, seed: int, epoch: int) -> np.ndarray:
    """(n, 2): source and index of every sample of one epoch, in order; weights decide how often each occurs."""
    random = _generator(seed, epoch, "order")
    chosen = []
    for number, (source, members) in enumerate(zip(mixture.sources, mixture.members)):
        wanted = max(1, round(source.weight * len(members)))
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        taken = np.concatenate(rounds)[:wanted]
        chosen.append(np.stack((np.full(wanted, number), taken), axis=1))
    return random.permutation(np.concatenate(chosen))


def packed_rows(mixture: Mixture, seed: int, caption_dropout: float, begin: int = 0) -> Iterator[list[PlacedSample]]:
    """Rows from number `begin` on, for ever."""
    return islice(_all_rows(mixture, seed, caption_dropout), begin, None)


def _all_rows(mixture: Mixture, seed: int, caption_dropout: float) -> Iterator[list[PlacedSample]]:
    for epoch in count():
        members = epoch_members(mixture, seed, epoch)
        random = _generator(seed, epoch, "rows")
        for start in range(0, len(members), WINDOW):
            placed = [
                PlacedSample(source, index, is_dropped(mixture, seed, epoch, source, index, caption_dropout))
                for source, index in members[start : start + WINDOW].tolist()
            ]
            lengths = [
                int(
                    (mixture.samples[s.source].bare_lengths if s.is_bare else mixture.samples[s.source].lengths)[
                        s.index
                    ]
                )
                for s in placed
            ]
            rows = pack_best_fit(lengths, mixture.row_length)
            for row in random.permutation(len(rows)).tolist():
                yield [placed[number] for number in rows[row]]


def is_dropped(mixture: Mixture, seed: int, epoch: int, source: int, index: int, share: float) -> bool:
    """Whether a caption is left out in this epoch; keyed by (seed, epoch, key). Only what is drawn for one can do."""
    if not share or mixture.sources[source].task not in ("image", "video"):
        return False
    key = mixture.samples[source].keys[index]
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
