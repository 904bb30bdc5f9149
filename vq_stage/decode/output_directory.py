"""The folder that a decode job writes into: it belongs to one dataset and one format, and killed jobs are swept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from shared.dataset.dataset import Dataset
from shared.errors import ConfigMismatchError, DatasetError, UsageError
from shared.storage.atomic import create_file
from shared.storage.digests import canonical_json, settings_diff
from shared.storage.paths import names_in
from vq_stage.decode.output_files import CLAIMS_NAME, RECORD_NAME, MediaFormats


def claim_directory(out: Path, dataset: Dataset, formats: MediaFormats) -> None:
    """Mark `out` as the output of this dataset in these formats.

    Raises UsageError for a folder with other files, ConfigMismatchError for the output of another dataset or format,
    and DatasetError if the record of `out` is damaged.
    """
    path = out / RECORD_NAME
    if not path.is_file() and (others := [name for name in names_in(out) if name != ".lock"]):
        raise UsageError(f"{out}: contains {others[0]!r} and is not the output of a decode job; use an empty folder")
    owner: dict[str, Any] = {"plan_sha256": dataset.plan().sha256, **formats.recorded()}
    if create_file(path, canonical_json(owner).encode()):
        return
    try:
        recorded = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: damaged: {error}; delete it to decode into this folder again") from error
    if diff := settings_diff(recorded, owner):
        raise ConfigMismatchError(
            f"{out}: contains images of another dataset or format:\n  " + "\n  ".join(diff) + "\nuse another folder"
        )


def sweep_directory(out: Path) -> None:
    """Remove what killed jobs left behind; only called while no other job decodes into `out`."""
    for path in out.rglob("*.tmp") if (out / RECORD_NAME).is_file() else out.glob(f"{RECORD_NAME}.*.tmp"):
        if re.search(r"\.\d+-[0-9a-f]{8}\.tmp$", path.name):
            path.unlink(missing_ok=True)
    for name in names_in(out / CLAIMS_NAME):
        (out / CLAIMS_NAME / name).unlink(missing_ok=True)
    if (out / CLAIMS_NAME).is_dir():
        (out / CLAIMS_NAME).rmdir()
