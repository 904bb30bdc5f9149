"""The manifest: what it counts, and its bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shared.dataset.manifest import Manifest, ManifestPart
from shared.dataset.shards import Shard
from shared.errors import DatasetError
from shared.storage.checked_json import dump_checked_json
from tests.support import handmade


def test_it_lists_parts_and_counts_rows(tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "d")
    manifest = dataset.manifest()
    assert (manifest.rows, manifest.quarantined, manifest.shards) == (3, 1, ())
    assert manifest.plan_sha256 == dataset.plan().sha256
    assert manifest.settings == handmade.settings()
    records = list(dataset.commit_records())
    assert manifest.parts == tuple(ManifestPart(r.unit, r.part, r.rows, r.part_bytes, r.part_sha256) for r in records)


def test_round_trip(tmp_path: Path) -> None:
    manifest = handmade.make(tmp_path / "d").manifest()
    sealed = replace(manifest, shards=(Shard("codes-00000.ab.arrow", 9, "ab" * 32, 3, ((0, 0, 1),)),))
    for value in (manifest, sealed):
        assert Manifest.from_bytes(value.to_bytes(), "here") == value
    assert "shards" not in json.loads(manifest.to_bytes())
    assert json.loads(sealed.to_bytes())["shards"][0]["units"] == [[0, 0, 1]]


@pytest.mark.parametrize("values", [{}, {"rows": 1}, {"format": "emu3.export/1"}])
def test_other_checked_json_is_not_a_manifest(values: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match="here: expected a manifest"):
        Manifest.from_bytes(dump_checked_json(values), "here")


@pytest.mark.parametrize("name", ["shard.arrow", "codes-.arrow", "codes-0000x.ab.arrow", "../codes-00000.ab.arrow"])
def test_a_shard_with_another_name_is_refused(name: str, tmp_path: Path) -> None:
    values = json.loads(handmade.make(tmp_path / "d").manifest().to_bytes())
    del values["check"]
    values["shards"] = [{"shard": name, "bytes": 9, "sha256": "ab" * 32, "rows": 3, "units": [[0, 0, 1]]}]
    with pytest.raises(DatasetError, match=r"here: expected a manifest.* is not "):
        Manifest.from_bytes(dump_checked_json(values), "here")


@pytest.mark.parametrize(("name", "value"), [("plan_sha256", {"a": True}), ("rows", "3"), ("quarantined", None)])
def test_a_value_of_another_type_is_refused(name: str, value: object, tmp_path: Path) -> None:
    values = json.loads(handmade.make(tmp_path / "d").manifest().to_bytes())
    del values["check"]
    with pytest.raises(DatasetError, match=f"here: expected a manifest: {name}: expected "):
        Manifest.from_bytes(dump_checked_json({**values, name: value}), "here")
