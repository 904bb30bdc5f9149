"""Temporary SQLite databases, for anything that may not fit into memory."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def temporary_database() -> sqlite3.Connection:
    """Return a database whose file is removed when it is closed; threads may use it in turn."""
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = OFF")
    return database


def as_blob(text: str) -> bytes:
    """Encode also text that is not valid Unicode, which SQLite rejects."""
    return text.encode("utf-8", "surrogatepass")


@contextmanager
def naming_the_disk() -> Iterator[None]:
    """Raise OSError, naming the directory, for errors of SQLite, which do not name the disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(
            f"temporary file in {tempfile.gettempdir()}: {error}; set TMPDIR to a directory on a larger disk"
        ) from error
