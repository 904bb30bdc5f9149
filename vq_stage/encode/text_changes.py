"""Texts that have changed in a source since its items were planned: found by comparing a listing with the plan.

With `--update-texts` they become an update of the dataset (see `shared.dataset.texts`), and nothing is encoded again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

from tqdm import tqdm

from shared.dataset.known_keys import KnownKeys
from shared.dataset.plan import Plan
from shared.dataset.quarantine_reasons import DUPLICATE_KEY
from shared.dataset.texts import RowTexts, TextUpdates
from shared.storage.temporary_database import naming_the_disk, temporary_database
from vq_stage.encode.keys import item_key
from vq_stage.sources.listing_report import Tally
from vq_stage.sources.media_source import MediaItem
from vq_stage.sources.media_types import stem_of

MAX_CHANGES = 1 << 18  # per update, so that any number of changes fits into memory
_NUMBERS = re.compile(r"(~\d+)?(#\d{5})?$")  # of an item whose key was in use, and of a clip


class TextChanges:
    """Compares the planned items of one listing with the current texts of the dataset."""

    def __init__(self, plan: Plan, texts: TextUpdates, is_update: bool, without_row: Iterable[str]):
        """`without_row` has the keys of quarantined inputs, whose texts are not counted; it is read if needed."""
        self.is_update = is_update
        self._plan = plan
        self._keys_without_row = without_row
        self._texts = texts
        self._seen = KnownKeys()
        self._pending: list[tuple[RowTexts, RowTexts]] = []
        self._changed, self._moved, self._unreadable = Tally(), Tally(), Tally()

    def compare(self, item: MediaItem) -> None:
        """Compare one planned item, which was listed with its texts."""
        rows = self._unseen_rows(item)
        for row in rows:
            self._seen.is_new(row.key)
        if item.refusal is not None:
            self._unreadable.add(item.uri)
            return
        if not rows and not self._planned.has(item.uri):
            self._moved.add(item.uri)
        for encoded, current in zip(rows, self._texts.current(rows)):
            wanted = RowTexts(encoded.key, item.text, item.extra_json)
            if current != wanted:
                self._pending.append((encoded, wanted))
                if not self._without_row.has(encoded.key):
                    self._changed.add(encoded.key)
        if len(self._pending) >= MAX_CHANGES:
            self._write()

    def _unseen_rows(self, item: MediaItem) -> list[RowTexts]:
        """Return the rows of an item. Several members of a tar may have one name: the nth item has the nth rows."""
        rows = [row for row in self._planned.rows(item) if not self._seen.has(row.key)]
        return [row for row in rows if item_key(row.key) == item_key(rows[0].key)]

    def finish(self) -> None:
        """Write the update, if there is to be one, and report to the user what has changed."""
        self._write()
        for line in self._lines():
            tqdm.write(line, file=sys.stderr)

    def _write(self) -> None:
        if self.is_update:
            self._texts.append(self._pending)
        self._pending.clear()

    def _lines(self) -> Iterator[str]:
        if self.is_update:
            yield self._changed.text("texts updated") if self._changed.count else "no text has changed"
            if self._moved.count:
                yield f"not compared: {self._moved.text('inputs have another path than planned')}"
            if self._unreadable.count:
                yield f"kept: {self._unreadable.text('texts cannot be read')}"
        elif self._changed.count:
            changed = self._changed.text("texts differ from those in the dataset")
            yield f"{changed}; --update-texts replaces them without encoding anything again"

    @cached_property
    def _without_row(self) -> KnownKeys:
        return KnownKeys(self._keys_without_row)

    @cached_property
    def _planned(self) -> _PlannedTexts:
        with naming_the_disk():
            return _PlannedTexts(self._plan)


class _PlannedTexts:
    """The texts of all planned inputs by URI, in a temporary SQLite file, so that any number fits."""

    def __init__(self, plan: Plan):
        self._database = temporary_database()
        self._database.execute("CREATE TABLE planned (uri, key, number, text, extra_json, PRIMARY KEY (uri, key))")
        self._database.execute("BEGIN")
        for unit in range(len(plan)):
            self._database.executemany(
                "INSERT OR REPLACE INTO planned VALUES (?, ?, ?, ?, ?)",
                [
                    (planned.uri, planned.key, planned.src_index, planned.text, planned.extra_json)
                    for planned in plan.unit(unit).inputs
                    if planned.refused_reason != DUPLICATE_KEY
                ],
            )
        self._database.execute("COMMIT")

    def rows(self, item: MediaItem) -> list[RowTexts]:
        """Return the planned texts of an item: one row, or one for each of its clips, in their order.

        The key decides if there are others with the same URI, as in a list with several keys for one image.
        """
        query = "SELECT key, text, extra_json FROM planned WHERE uri = ? ORDER BY number"
        found = self._database.execute(query, (item.uri,))
        rows = [RowTexts(*values) for values in found]
        names = {item.key, *item.other_keys, stem_of(item.uri), item.uri}
        return [row for row in rows if {row.key, _NUMBERS.sub("", row.key)} & names] or rows

    def has(self, uri: str) -> bool:
        """Return whether an input with this URI is planned."""
        return self._database.execute("SELECT 1 FROM planned WHERE uri = ?", (uri,)).fetchone() is not None
