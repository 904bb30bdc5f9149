"""The progress log of a dataset, which is never read for correctness."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.storage.digests import canonical_json
from shared.storage.paths import is_local


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
        """Yield the events in order; lines that a killed process left incomplete are skipped."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
