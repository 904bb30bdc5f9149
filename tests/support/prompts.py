"""Files of prompts or questions, and a small clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLIP = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)


def write_entries(path: Path, entries: Sequence[Any]) -> Path:
    """Write JSON, or JSON lines if the suffix is `.jsonl`."""
    text = json.dumps(entries) if path.suffix == ".json" else "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(text)
    return path
