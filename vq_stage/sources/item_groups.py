"""Items by the image or video that they are about, in a temporary database, so that any number fits.

A list has an entry for every caption or conversation of an image, near each other or far apart; a dataset has one row
for the image. And a list may use one key for several images.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from itertools import chain
from operator import attrgetter
from typing import Any

from shared.storage.temporary_database import as_blob, temporary_database
from vq_stage.sources.annotations import merged
from vq_stage.sources.media_source import MediaItem, checked_text

CACHE_KIB = 64 << 10
ITEMS_PER_POLL = 256
_values = attrgetter(*(field.name for field in fields(MediaItem)))

# Items that differ in `picture` are about different images or videos.
_CREATE = "CREATE TABLE items (number INTEGER PRIMARY KEY, picture BLOB, key BLOB, item BLOB)"
_REPEATED_PICTURES = """CREATE TABLE repeated_pictures AS
    SELECT picture, min(number) AS first FROM items GROUP BY picture HAVING count(*) > 1"""
_REPEATED_KEYS = """CREATE TABLE repeated_keys AS
    SELECT key FROM items GROUP BY key HAVING min(picture) < max(picture)"""
_FIRST_ITEMS = """SELECT items.item, repeated_pictures.picture, repeated_keys.key IS NOT NULL FROM items
    LEFT JOIN repeated_pictures USING (picture) LEFT JOIN repeated_keys USING (key)
    WHERE first IS NULL OR first = number ORDER BY number"""


class ItemGroups:
    """A temporary SQLite file, removed on close. Add all items first, then read the groups."""

    def __init__(self) -> None:
        self._database = temporary_database()
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute(_CREATE)

    def close(self) -> None:
        self._database.close()

    def add(self, items: Iterable[tuple[str, MediaItem]], is_planned: Callable[[MediaItem], bool]) -> None:
        """Add pairs (picture, item). A refused item is about no picture.

        `is_planned` is called periodically, so that it can stop a long listing by raising.
        """
        self._database.execute("BEGIN")
        rows = map(_row, _polled(items, is_planned))
        self._database.executemany("INSERT INTO items (picture, key, item) VALUES (?, ?, ?)", rows)
        self._database.execute("COMMIT")
        self._database.execute("UPDATE items SET picture = number WHERE picture IS NULL")

    def items(self) -> Iterator[MediaItem]:
        """Yield one item per picture, in the order of the first ones, with the annotations of all."""
        for statement in (
            "CREATE INDEX by_picture ON items (picture)",
            _REPEATED_PICTURES,
            "CREATE INDEX repeated_by_picture ON repeated_pictures (picture)",
            "CREATE INDEX by_key ON items (key, picture)",
            _REPEATED_KEYS,
            "CREATE INDEX repeated_by_key ON repeated_keys (key)",
        ):
            self._database.execute(statement)
        for item, picture, key_repeats in self._database.execute(_FIRST_ITEMS):
            group = [item] if picture is None else self._items_of(picture)
            one = merged(list(map(_item, group)))
            yield replace(one, key_repeats=True) if key_repeats else one

    def _items_of(self, picture: Any) -> Iterator[bytes]:
        rows = self._database.execute("SELECT item FROM items WHERE picture = ? ORDER BY number", (picture,))
        return chain.from_iterable(rows)

    def split_by_content(self, content: Callable[[MediaItem], bytes], is_planned: Callable[[MediaItem], bool]) -> None:
        """Split groups whose items have different contents, as digests; only groups of several items are read.

        Groups that are planned item by item are split without reading them.
        """
        execute = self._database.execute
        execute("CREATE INDEX for_split ON items (picture)")
        execute("CREATE TABLE groups AS SELECT picture FROM items GROUP BY picture HAVING count(*) > 1")
        execute("CREATE TABLE unplanned (picture PRIMARY KEY) WITHOUT ROWID")
        execute("CREATE TABLE split (number INTEGER PRIMARY KEY, picture BLOB)")
        execute("BEGIN")
        for picture, item in execute("SELECT picture, item FROM items JOIN groups USING (picture)"):
            if not is_planned(replace(_item(item), key_repeats=True)):
                execute("INSERT OR IGNORE INTO unplanned VALUES (?)", (picture,))
        unplanned = "SELECT number, picture, item FROM items JOIN unplanned USING (picture) ORDER BY number"
        for number, picture, row in execute(unplanned):
            item = _item(row)
            is_planned(item)  # raises to stop the listing
            execute("INSERT INTO split VALUES (?, ?)", (number, picture + b"\0" + content(item)))
        execute("UPDATE items SET picture = number WHERE picture IN groups AND picture NOT IN unplanned")
        execute("UPDATE items SET picture = split.picture FROM split WHERE split.number = items.number")
        execute("COMMIT")
        execute("DROP INDEX for_split")


def _polled(
    items: Iterable[tuple[str, MediaItem]], is_planned: Callable[[MediaItem], bool]
) -> Iterator[tuple[str, MediaItem]]:
    for number, (picture, item) in enumerate(items):
        if number % ITEMS_PER_POLL == 0:
            is_planned(item)
        yield picture, item


def _row(pair: tuple[str, MediaItem]) -> tuple[bytes | None, bytes, bytes]:
    """Return the columns of an item; `marshal` keeps tuples, and text that is not valid Unicode."""
    picture, item = pair[0], checked_text(pair[1])
    return None if item.refusal else as_blob(picture), as_blob(item.key), marshal.dumps(_values(item))


def _item(row: bytes) -> MediaItem:
    return MediaItem(*marshal.loads(row))
