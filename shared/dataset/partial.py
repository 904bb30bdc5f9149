"""Rows of a unit that was not finished, kept for the job that goes on with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from shared.dataset.dataset import METADATA_KEY, Dataset, part_bytes
from shared.dataset.plan import Plan
from shared.dataset.rows import CodeRecord, from_record_batch
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory

_DIGEST_BYTES = 32


def save_partial(
    dataset: Dataset, unit: int, records: Sequence[CodeRecord], quality: list[dict[str, Any]], plan: Plan, numerics: Any
) -> None:
    path = dataset.partial_path(unit)
    make_directory(path.parent)
    belongs = {"plan_sha256": plan.sha256, "numerics": numerics, "quality": quality}
    content = part_bytes(records, plan.settings.format, belongs).to_pybytes()
    write_file(path, hashlib.sha256(content).digest() + content)


def load_partial(
    dataset: Dataset, unit: int, plan: Plan, numerics: Any
) -> tuple[list[CodeRecord], list[dict[str, Any]]]:
    """Rows and quality kept by `save_partial`; nothing if there are none or they are damaged or foreign."""
    path = dataset.partial_path(unit)
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        return [], []
    reader = pa.ipc.open_file(content[_DIGEST_BYTES:])
    belongs = json.loads(reader.schema.metadata[METADATA_KEY])
    if (belongs["plan_sha256"], belongs["numerics"]) != (plan.sha256, numerics):
        return [], []
    batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    return [row for batch in batches for row in from_record_batch(batch)], belongs["quality"]
