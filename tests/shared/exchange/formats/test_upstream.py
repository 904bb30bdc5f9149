"""Upstream's files: read by torch, read without it, and refused when they ask for anything to be run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.errors import JobStoppedError, UsageError
from shared.exchange.export import export
from shared.exchange.formats.safe_names import safe_name
from shared.exchange.formats.torch_files import dump_torch, load_torch
from shared.exchange.importer import import_dataset
from shared.exchange.options import ExportOptions, ImportOptions
from shared.jobs.units import RunTotals
from tests.support.evil_pickles import evil_pickles, torch_zip
from tests.support.small_datasets import CODES_SETTINGS, all_rows, code_rows, digest, image, write_dataset

CODEC = Codec(None, 32768, 8, 4)
CODES = np.arange(6).reshape(2, 3)


def write_list(folder: Path, samples: dict[str, bytes], prefix: str = "feature", extra: tuple[Any, ...] = ()) -> Path:
    (folder / "feature").mkdir(parents=True)
    (folder / "list").mkdir()
    for name, data in samples.items():
        (folder / "feature" / name).write_bytes(data)
    (folder / "list/train.json").write_text(json.dumps({"prefix": prefix, "path_list": [*samples, *extra]}))
    return folder


def refused(root: Path) -> dict[str, str]:
    dataset = Dataset.open(root)
    return {item.uri: item.reason for record in dataset.commit_records() for item in dataset.refusals(record)}


def test_rows_exported_in_upstreams_layout_come_back_except_for_their_origin(tmp_path: Path) -> None:
    rows = code_rows()
    dataset = write_dataset(tmp_path / "codes", rows, CODES_SETTINGS)
    result = export(ExportOptions(str(dataset.root), str(tmp_path / "out"), "pth"))
    assert (result.files, result.skipped) == (18, 0)
    listed = json.loads((tmp_path / "out/list/train.json").read_bytes())
    assert listed["prefix"] == str(tmp_path / "out/feature")
    assert listed["path_list"] == [safe_name(row.key) + ".pth" for row in rows]
    (tmp_path / "out").rename(tmp_path / "moved")
    done = import_dataset(ImportOptions(str(tmp_path / "moved"), str(tmp_path / "back"), CODEC, unit_rows=5))
    assert (done.rows, done.quarantined) == (18, 0)
    digest(tmp_path / "back")
    found = {row.key: row for row in all_rows(tmp_path / "back")}
    assert set(found) == {row.key for row in rows}
    for index, row in enumerate(rows):
        back = found[row.key]
        assert (back.src_index, back.kind, back.text) == (index, row.kind, row.text or None)
        assert np.array_equal(back.codes_THW, row.codes_THW)
        assert (back.src_h, back.src_w) == (8 * row.codes_THW.shape[1], 8 * row.codes_THW.shape[2])


def test_what_is_broken_goes_to_quarantine_with_its_reason(tmp_path: Path) -> None:
    good = dump_torch({"name": "good", "images": CODES, "texts": "t"})
    samples = {
        "good.pth": good,
        "cut.pth": good[:-30],
        "empty.pth": b"",
        "evil.pth": torch_zip(evil_pickles(tmp_path / "ran")[2]),
        "legacy.pth": pickle.dumps(0x1950A86A20F9469CFC6C),
        "twice.pth": dump_torch({"name": "good", "images": CODES, "texts": "t"}),
        "high.pth": dump_torch({"name": "high", "images": CODES + 32763, "texts": ""}),
        "negative.pth": dump_torch({"name": "negative", "images": CODES - 1, "texts": ""}),
        "flat.pth": dump_torch({"name": "flat", "images": CODES.reshape(-1), "texts": ""}),
        "none.pth": dump_torch({"name": "none", "texts": ""}),
        "number.pth": dump_torch({"name": 3, "images": CODES, "texts": ""}),
        "list.pth": torch_zip(pickle.dumps([1], protocol=2)),
        "surrogate.pth": torch_zip(pickle.dumps({"name": "\ud800", "images": CODES}, protocol=2)),
        "nameless.pth": dump_torch({"images": CODES}),
    }
    write_list(tmp_path / "in", samples, extra=("gone.pth", 7, "\ud800.pth", "nul\0.pth"))
    done = import_dataset(ImportOptions(str(tmp_path / "in"), str(tmp_path / "back"), CODEC, unit_rows=4))
    assert (done.rows, done.quarantined, done.units_missing) == (2, 16, 0)
    assert [row.key for row in all_rows(tmp_path / "back")] == ["good", "nameless"]
    assert refused(tmp_path / "back") == {
        "cut.pth": "truncated", "empty.pth": "truncated", "evil.pth": "unsafe_pickle", "legacy.pth": "unsupported",
        "twice.pth": "duplicate_key", "high.pth": "bad_codes", "negative.pth": "bad_codes", "flat.pth": "bad_codes",
        "none.pth": "bad_codes", "number.pth": "bad_entry", "list.pth": "unsupported", "surrogate.pth": "bad_entry",
        "gone.pth": "missing", "7": "bad_entry", "\\ud800.pth": "bad_entry", "nul\0.pth": "unreadable",
    }  # fmt: skip
    assert not (tmp_path / "ran").exists()
    digest(tmp_path / "back")


def test_a_file_that_changes_between_planning_and_reading_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = {f"{name}.pth": dump_torch({"name": name, "images": CODES, "texts": ""}) for name in "ab"}
    write_list(tmp_path / "in", samples)
    options = ImportOptions(str(tmp_path / "in"), str(tmp_path / "back"), CODEC)
    monkeypatch.setattr("shared.exchange.importer.run_units", lambda *others: RunTotals())
    assert import_dataset(options).units_missing == 1
    monkeypatch.undo()
    (tmp_path / "in/feature/a.pth").write_bytes(dump_torch({"name": "a", "images": CODES.T, "texts": ""}))
    assert import_dataset(options).rows == 1
    assert refused(tmp_path / "back") == {"a.pth": "changed"}


def test_samples_of_mixed_sizes_share_units_of_one_size(tmp_path: Path) -> None:
    samples = {}
    for index in range(6):
        images = np.zeros((2, 2 + index % 2), np.int64)
        samples[f"{index}.pth"] = dump_torch({"name": str(index), "images": images, "texts": ""})
    write_list(tmp_path / "in", samples)
    import_dataset(ImportOptions(str(tmp_path / "in/list/train.json"), str(tmp_path / "back"), CODEC))
    records = list(Dataset.open(tmp_path / "back").commit_records())
    assert [(record.rows, record.width) for record in records] == [(3, 3), (3, 2)]
    assert Dataset.open(tmp_path / "back").plan().settings.codec.codebook_size == 32768


def test_lists_that_cannot_be_imported(tmp_path: Path) -> None:
    write_list(tmp_path / "in", {}, extra=("a", "b", "c"))
    with pytest.raises(UsageError, match="--codebook-size"):
        import_dataset(ImportOptions(str(tmp_path / "in"), str(tmp_path / "back")))
    with pytest.raises(JobStoppedError, match="more than 2 samples in a row refused, the last: c: missing"):
        import_dataset(ImportOptions(str(tmp_path / "in"), str(tmp_path / "back"), CODEC, max_refused_in_a_row=2))
    for text in ("[]", "{", '{"prefix": "a"}'):
        (tmp_path / "in/list/train.json").write_text(text)
        with pytest.raises(UsageError, match=r"path_list|not JSON"):
            import_dataset(ImportOptions(str(tmp_path / "in"), str(tmp_path / "back"), CODEC))


def test_an_image_is_written_flat_and_a_clip_with_its_frames(tmp_path: Path) -> None:
    from shared.exchange.formats.upstream import dump_sample

    assert load_torch(dump_sample(image(0, "a")))["images"].shape == (4, 6)
    assert load_torch(dump_sample(code_rows()[-1]))["images"].shape == (3, 4, 6)
