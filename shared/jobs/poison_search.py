"""Finds the inputs of a unit that kill workers.

A unit that was in flight when its worker died is retried alone. After a second death its inputs are tried in halves,
and a single input that kills its worker twice is poison: the unit is then computed without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.errors import JobStoppedError
from shared.jobs.job import Task

DEATHS_BEFORE_SPLIT = 2
DEATHS_BEFORE_POISON = 2  # the first may have been chance, a lost node or a lack of memory
MAX_DEATHS_AS_A_WHOLE = 3  # of a unit all of whose inputs can be computed


@dataclass(slots=True)
class Suspect:
    """A unit whose worker died, and the state of the search for its poison inputs.

    `subsets` of its inputs are still to be tried, the last one next; None while the unit is tried as a whole.
    """

    unit: int
    inputs: tuple[int, ...]
    deaths: int = 0
    subsets: list[tuple[int, ...]] | None = None
    poison: list[int] = field(default_factory=list)

    def task(self) -> Task:
        if self.subsets:
            return Task(self.unit, subset=self.subsets[-1])
        return Task(self.unit, poison=tuple(sorted(self.poison)))

    def subset_finished(self) -> None:
        assert self.subsets, "only a split unit has tasks for subsets"
        self.subsets.pop()
        self.deaths = 0

    def died(self) -> bool:
        """Count a death; return whether it proves an input to be poison.

        Raises JobStoppedError if the whole unit keeps killing workers although each input can be computed.
        """
        self.deaths += 1
        if self.subsets is None:
            self._split_unit()
        elif not self.subsets:
            self._check_whole()
        elif len(self.subsets[-1]) > 1:
            self.subsets += _halves(self.subsets.pop())
            self.deaths = 0
        elif self.deaths >= DEATHS_BEFORE_POISON:
            self.poison += self.subsets.pop()
            self.deaths = 0
            return True
        return False

    def _split_unit(self) -> None:
        if self.deaths < DEATHS_BEFORE_SPLIT:
            return
        if len(self.inputs) == 1:
            self.subsets, self.deaths = [self.inputs], DEATHS_BEFORE_POISON - 1
        else:
            self.subsets, self.deaths = _halves(self.inputs), 0

    def _check_whole(self) -> None:
        if self.deaths >= MAX_DEATHS_AS_A_WHOLE:
            raise JobStoppedError(
                f"unit {self.unit}: its worker died {self.deaths} times in a row, although each of its inputs can be"
                " computed alone; see the workers' output above, then run the same command"
            )


def _halves(inputs: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Split inputs, the second half first: the last element of a list is tried next."""
    middle = (len(inputs) + 1) // 2
    return [half for half in (inputs[middle:], inputs[:middle]) if half]
