"""Finished rows of an interrupted unit, kept for the job that continues it.

A file is the SHA-256 of the rest (32 bytes), then an Arrow file of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from shared.dataset.arrow_file import METADATA_KEY, dump_rows
from shared.dataset.commit import UnitResult
from shared.dataset.paths import DatasetPaths
from shared.dataset.plan import Plan
from shared.dataset.rows import from_record_batch
from shared.errors import DatasetError
from shared.storage.atomic import write_file
from shared.storage.paths import make_directory
from shared.storage.small_files import parse_json_object

_DIGEST_BYTES = 32


def save_partial(paths: DatasetPaths, plan: Plan, result: UnitResult) -> None:
    """Keep the rows and the quality samples of a unit; refused inputs are refused again by the next job."""
    path = paths.partial_path(result.unit)
    make_directory(path.parent)
    metadata = {"plan_sha256": plan.sha256, "numerics": result.numerics, "quality": result.quality}
    content = dump_rows(result.records, plan.settings, metadata).to_pybytes()
    write_file(path, hashlib.sha256(content).digest() + content)


def load_partial(paths: DatasetPaths, plan: Plan, unit: int, numerics: Mapping[str, Any]) -> UnitResult:
    """Return what `save_partial` kept; no rows if it is missing, damaged, or of another unit, plan or numerics."""
    path, nothing = paths.partial_path(unit), UnitResult(unit, numerics=numerics)
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        return nothing
    reader = pa.ipc.open_file(content[_DIGEST_BYTES:])
    metadata = parse_json_object(reader.schema.metadata[METADATA_KEY], str(path), DatasetError)
    if (metadata["plan_sha256"], metadata["numerics"]) != (plan.sha256, numerics):
        return nothing
    batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    records = [row for batch in batches for row in from_record_batch(batch)]
    if not {row.src_index for row in records} <= set(plan.src_indices(unit)):
        return nothing
    return UnitResult(unit, records, numerics=numerics, quality=metadata["quality"])
