"""The manifest of an export."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import DatasetError
from shared.exchange.manifest import ExportManifest
from tests.support.exports import run_export


def test_a_flipped_bit_of_an_exports_manifest_is_noticed(tmp_path: Path, codes: Path) -> None:
    run_export(codes, tmp_path / "out", "parquet")
    data = bytearray((tmp_path / "out/__emu3__/manifest.json").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out/__emu3__/manifest.json").write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        ExportManifest.read(tmp_path / "out")
