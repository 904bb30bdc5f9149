"""Reads which vision tokenizer a dataset or a language model belongs to."""

from __future__ import annotations

import json

from shared.dataset.dataset import Dataset
from shared.errors import DatasetError
from shared.storage.paths import as_path
from vq_stage.sources.files import refusing_unreadable


def carried_codec(place: str) -> str | None:
    """The fingerprint that a dataset or a language model carries, None without one. Raises RelayError."""
    path = as_path(place)
    with refusing_unreadable():
        if (path / "plan.arrow").exists():
            found = Dataset.open(place).plan().settings.codec.fingerprint
        elif (path / "config.json").exists():
            found = json.loads((path / "config.json").read_text(encoding="utf-8")).get("codec_fingerprint")
        else:
            return None
    if not isinstance(found, str | None):
        raise DatasetError(f"{place}: codec fingerprint {found!r}: expected hex digits")
    return found
