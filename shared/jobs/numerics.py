"""Refuses to mix rows computed on another device, or with another number type, version or batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.dataset.dataset import Dataset
from shared.errors import ConfigMismatchError
from shared.storage.digests import settings_diff


def check_numerics(dataset: Dataset, numerics: Mapping[str, Any]) -> None:
    """Raise ConfigMismatchError if the committed units were computed with different numerics."""
    recorded = next((record.numerics for record in dataset.commit_records() if record.numerics), numerics)
    if diff := settings_diff(recorded, numerics, "numerics."):
        raise ConfigMismatchError(
            f"{dataset.root} was created with different numerics; individual codes may differ:\n  "
            + "\n  ".join(diff)
            + "\nuse the recorded settings, or --allow-numerics-change"
        )
