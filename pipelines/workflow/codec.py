"""Reads which vision tokenizer a dataset or a language model belongs to."""

from __future__ import annotations

import json

from shared.dataset.dataset import Dataset
from shared.errors import DatasetError
from shared.storage.paths import as_path
from vq_stage.sources.files import refusing_unreadable


def recorded_codec(location: str) -> str | None:
    """The codec fingerprint recorded in a dataset or a language model; None if there is none.

    Raises RelayError if the location cannot be read.
    """
    path = as_path(location)
    with refusing_unreadable():
        if (path / "plan.arrow").exists():
            fingerprint = Dataset.open(location).plan().settings.codec.fingerprint
        elif (path / "config.json").exists():
            fingerprint = json.loads((path / "config.json").read_text(encoding="utf-8")).get("codec_fingerprint")
        else:
            return None
    if not isinstance(fingerprint, str | None):
        raise DatasetError(f"{location}: codec fingerprint {fingerprint!r}: expected hexadecimal digits")
    return fingerprint
