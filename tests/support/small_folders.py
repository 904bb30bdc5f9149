"""Folders of small files for sources: images, tars and tables that can be read, and everything else empty."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.small_sources import png
from tests.support.small_tars import tar_bytes


def fill(root: Path, *names: str) -> Path:
    """Create files, below `root`; the content fits the suffix."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(name, seed))
    return root


def _content(name: str, seed: int) -> bytes:
    if name.lower().endswith(".tar"):
        return tar_bytes({f"{seed}{n}.png": png(10 * seed + n) for n in range(2)})
    if name.lower().endswith(".png"):
        return png(seed)
    if name.lower().endswith(".parquet"):
        columns = {"url": ["u"]} if "urls" in name else {"image": [png(seed)], "text": ["a caption"]}
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), buffer)
        return bytes(buffer.getvalue())
    return b"text" if name.endswith(".txt") else b""
