"""One run of an export: it reads the rows, writes the files and counts both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from shared.dataset.dataset import Dataset
from shared.dataset.rows import CodeRecord, DatasetDigest
from shared.exchange.options import ExportOptions
from shared.storage.atomic import remove_stale_temporaries, temporary_path, write_file
from shared.storage.paths import as_path, is_local, make_directory, sha256_of


class ExportRun:
    """The rows of a complete dataset, the folder they go to, and counts.

    `files` and `size_bytes` count what the folder holds, `written` the files that this run wrote, and `skipped` the
    rows that the format cannot hold. Raises DatasetError if units are missing.
    """

    def __init__(self, options: ExportOptions, dataset: Dataset):
        plan = dataset.plan()
        self.options, self.dataset, self.settings = options, dataset, plan.settings
        self._records = dataset.complete_records(plan)
        self.out = as_path(options.out)
        self.rows = self.files = self.size_bytes = self.written = self.skipped = 0
        self._digest = DatasetDigest(self.settings.fingerprints())

    @property
    def digest(self) -> str:
        """The digest of the rows read so far; of all rows, it is the one that `emu3 verify` prints."""
        return self._digest.hexdigest()

    def make_folder(self, name: str = "") -> Path:
        """Create a folder of the export, and remove from it what killed exports left."""
        folder = self.out / name if name else self.out
        make_directory(folder)
        remove_stale_temporaries(folder)
        return folder

    def read_rows(self) -> Iterator[CodeRecord]:
        """Yield all rows in order, counted and with a progress bar."""
        rows = sum(record.rows for record in self._records)
        with tqdm(total=rows, desc="export", unit="row", disable=None) as bar:
            for record in self._records:
                for row in self.dataset.rows(record):
                    self._digest.add([row.digest()])
                    self.rows += 1
                    yield row
                    bar.update()

    def needs_writing(self, name: str, size_bytes: int, sha256: str) -> bool:
        """Count a file of the export; return whether it is missing or differs."""
        self.files += 1
        self.size_bytes += size_bytes
        return sha256_of(self.out / name) != sha256

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically and durably."""
        write_file(self.out / name, content)
        self.written += 1

    def write_unsynced(self, name: str, content: bytes) -> None:
        """Write a file atomically; `sync` makes many such files durable at once."""
        path = self.out / name
        if not is_local(path):
            self.write(name, content)
            return
        temporary = temporary_path(path)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.written += 1

    def sync(self) -> None:
        if is_local(self.out):
            os.sync()
