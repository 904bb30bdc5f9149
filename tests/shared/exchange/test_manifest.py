"""The manifest of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import DatasetError
from shared.exchange.manifest import ExportManifest
from shared.storage.checked_json import dump_checked_json, read_checked_json
from tests.support.exports import run_export


def test_a_flipped_bit_of_an_exports_manifest_is_noticed(tmp_path: Path, codes: Path) -> None:
    run_export(codes, tmp_path / "out", "parquet")
    data = bytearray((tmp_path / "out/__emu3__/manifest.json").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out/__emu3__/manifest.json").write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        ExportManifest.read(tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": "3"},
        {"rows": -1},
        {"digest": None},
        {"files": [{"file": "codes-00000.tar", "bytes": 1, "sha256": 2, "rows": 3}]},
        {"files": [{"file": "../codes-00000.tar", "bytes": 1, "sha256": "ab", "rows": 3}]},
    ],
)
def test_a_manifest_with_wrong_values_is_refused(tmp_path: Path, codes: Path, changes: dict[str, Any]) -> None:
    run_export(codes, tmp_path / "out", "parquet")
    path = tmp_path / "out/__emu3__/manifest.json"
    path.write_bytes(dump_checked_json({**read_checked_json(path), **changes}))
    with pytest.raises(DatasetError, match="expected the manifest of an export"):
        ExportManifest.read(tmp_path / "out")
