"""What the listing of a source used, skipped and could not match, counted with the first example of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """A count and the first thing that was counted."""

    count: int = 0
    first: str = ""

    def add(self, name: str) -> None:
        self.first = self.first if self.count else name
        self.count += 1

    def text(self, things: str) -> str:
        return f"{self.count} {things} (first: {self.first})"


@dataclass(slots=True)
class ListingReport:
    """Counts of one listing. `skipped` has a tally per kind of thing, such as `hidden files` or `.heic files`.

    `used` names what a folder was read as, where that had to be decided.
    """

    used: str = ""
    without_caption: Tally = field(default_factory=Tally)
    unused_captions: Tally = field(default_factory=Tally)
    skipped: dict[str, Tally] = field(default_factory=dict)

    def skip(self, kind: str, name: str) -> None:
        self.skipped.setdefault(kind, Tally()).add(name)

    def lines(self) -> Iterator[str]:
        """Yield sentences for the user, in a fixed order; none if there is nothing to report."""
        if self.used:
            yield self.used
        unmatched = [(self.without_caption, "inputs without a caption"), (self.unused_captions, "unused captions")]
        if captions := [tally.text(things) for tally, things in unmatched if tally.count]:
            yield f"captions: {'; '.join(captions)}"
        for things, tally in sorted(self.skipped.items()):
            yield f"skipped: {tally.text(things)}"
