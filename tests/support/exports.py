"""Exports of small datasets, some of them interrupted."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from shared.exchange.export import ExportResult, export
from shared.exchange.options import ExportOptions

SHARD_BYTES = 20000  # a few rows per shard


def run_export(dataset: Path, out: Path, how: str, shard_bytes: int = SHARD_BYTES) -> ExportResult:
    return export(ExportOptions(str(dataset), str(out), how, shard_bytes, prefix="feature"))


def stop_after(count: int, owner: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process at the end of call number `count` of a method."""
    original, calls = getattr(owner, method), iter(range(1, 1000))

    def call(*values: Any) -> Any:
        result = original(*values)
        if next(calls) == count:
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, method, call)
