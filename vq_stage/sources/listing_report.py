"""What the listing of a source used, skipped and could not match, counted with the first example of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vq_stage.sources.media_types import COMPRESSED_TARS, suffix_of

MAX_SUFFIXES = 30  # that are counted one by one
MAX_SUFFIX_LENGTH = 12


@dataclass(slots=True)
class Tally:
    """A count and the first thing that was counted."""

    count: int = 0
    first: str = ""

    def add(self, name: str) -> None:
        self.first = self.first if self.count else name
        self.count += 1

    def text(self, things: str) -> str:
        first = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in self.first)
        return f"{self.count} {things} (first: {first})"


@dataclass(slots=True)
class ListingReport:
    """Counts of one listing. `skipped` has a tally per kind of thing, such as `hidden files` or `.heic files`.

    `used` names what a folder was read as, where that had to be decided; `left_out` has what was left out then.
    """

    used: str = ""
    without_caption: Tally = field(default_factory=Tally)
    unused_captions: Tally = field(default_factory=Tally)
    skipped: dict[str, Tally] = field(default_factory=dict)
    left_out: dict[str, Tally] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the last listing, but not how the source was opened."""
        self.without_caption, self.unused_captions, self.skipped = Tally(), Tally(), {}

    def skip(self, kind: str, name: str) -> None:
        self.skipped.setdefault(kind, Tally()).add(name)

    def skip_file(self, name: str) -> None:
        """Count a file that is no input, by its suffix."""
        suffix = suffix_of(name)
        kind = f"{suffix} files" if suffix else "files without a suffix"
        if name.lower().endswith(COMPRESSED_TARS):
            kind = "compressed tars, which must be decompressed first"
        elif len(suffix) > MAX_SUFFIX_LENGTH or (kind not in self.skipped and len(self.skipped) >= MAX_SUFFIXES):
            kind = "other files"
        self.skip(kind, name)

    def lines(self) -> Iterator[str]:
        """Yield lines for the user, in a fixed order; none if there is nothing to report."""
        if self.used:
            yield self.used
        unmatched = [(self.without_caption, "inputs without a caption"), (self.unused_captions, "unused captions")]
        if captions := [tally.text(things) for tally, things in unmatched if tally.count]:
            yield f"captions: {'; '.join(captions)}"
        for things, tally in sorted({**self.left_out, **self.skipped}.items()):
            yield f"skipped: {tally.text(things)}"
