"""The progress log of a dataset, which is never read for correctness."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.errors import DatasetError
from shared.storage.digests import canonical_json
from shared.storage.paths import is_local
from shared.storage.small_files import parse_json_object

_MAX_LINE_CHARACTERS = 1 << 16


class EventLog:
    """Lines of JSON, appended by every job. Remote datasets have none: objects cannot be appended to."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, **values: Any) -> None:
        if is_local(self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(canonical_json(values) + "\n")

    def append_unit(self, unit: int, rows: int, elapsed_s: float) -> None:
        self.append(event="unit", unit=unit, rows=rows, elapsed_s=round(elapsed_s, 3), time=time.time())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events in order; lines that a killed process left incomplete, and damaged ones, are skipped."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            while line := file.readline(_MAX_LINE_CHARACTERS):
                with suppress(DatasetError):
                    yield parse_json_object(line, str(self.path), DatasetError)
