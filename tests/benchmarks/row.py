"""One figure of a benchmark: ours, the peer's, and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OURS = "emu3-relay"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    `ratio` says how many times better we are than the peer; without a peer there is none. `goal` is the least ratio
    or, without a peer, the least value of `ours`, or with `is_limit` the greatest.
    """

    name: str
    ours: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: float | None = None
    is_limit: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met, None if there is none."""
        if self.goal is None:
            return None
        value = self.ours if self.ratio is None else self.ratio
        return value <= self.goal if self.is_limit else value >= self.goal


def compared(
    name: str,
    unit: str,
    amounts: Mapping[str, float],
    seconds: Mapping[str, Sequence[float]],
    goals: Mapping[str, float] | None = None,
) -> list[Row]:
    """Return a row for every peer from the seconds of all rounds, in which everyone took a turn.

    `amounts` is what each one did in a round, in units of which `unit` gives the number per second. Values are medians,
    and the ratio is the median of those of the rounds.
    """
    rates = {who: [amounts[who] / value for value in values] for who, values in seconds.items()}
    medians = {who: statistics.median(values) for who, values in rates.items()}
    return [
        Row(
            name,
            medians[OURS],
            unit,
            peer,
            medians[peer],
            statistics.median(mine / theirs for mine, theirs in zip(rates[OURS], rates[peer])),
            (goals or {}).get(peer),
        )
        for peer in rates
        if peer != OURS
    ]
