"""Upstream's files: read by torch, read without it, and refused when they ask for anything to be run."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec import Codec
from shared.dataset.dataset import Dataset
from shared.errors import JobStoppedError, RefusedInput, UsageError
from shared.exchange.export import export
from shared.exchange.formats.safe_names import safe_name
from shared.exchange.formats.torch_files import dump_torch, load_torch
from shared.exchange.importer import import_dataset
from shared.exchange.options import ExportOptions, ImportOptions
from shared.jobs.engines import RunTotals
from tests.support.small_datasets import CODES_SETTINGS, all_rows, code_rows, digest, image, write_dataset

CODEC = Codec(None, 32768)
CODES = np.arange(6).reshape(2, 3)


def torch_zip(pickled: bytes, **members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in {"data.pkl": pickled, "version": b"3\n", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return sink.getvalue()


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


def outcome(content: bytes) -> str:
    """`read`, or the reason of the refusal."""
    try:
        load_torch(content)
    except RefusedInput as error:
        return error.reason
    return "read"


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def evil_pickles(path: Path) -> list[bytes]:
    call = f"cos\nsystem\n(S'touch {path}'\ntR."
    return [pickle.dumps({"name": "a", "images": Evil(path)}, protocol=protocol) for protocol in (0, 1, 2, 3, 4, 5)] + [
        call.encode(),
        f"(S'touch {path}'\nios\nsystem\n.".encode(),  # INST
        b"\x80\x02cbuiltins\neval\n(X\x04\0\0\0open\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dmemmap\x93.",
        b"\x80\x02cnumpy\ndtype\n}b.",  # changes what it named
        b"\x80\x02c_codecs\nencode\n}b.",
        b"\x80\x02cnumpy\ndtype\nX\x01\0\0\0O\x85R.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of 2**31 entries
        b"\x80\x02X\x04\0\0\0kindQ.",
        b"no pickle",
        b"",
    ]


def test_a_pickle_never_runs_anything(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    for pickled in evil_pickles(trap):
        with pytest.raises(RefusedInput) as error:
            load_torch(torch_zip(pickled))
        assert error.value.reason == "unsafe_pickle", pickled
    assert not trap.exists()
    pickle.loads(evil_pickles(trap)[2])  # so it would have
    assert trap.exists()


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_a_dictionary(data: bytes) -> None:
    for content in (data, b"PK\3\4" + data, torch_zip(data), torch_zip(b"\x80\x02" + data + b".")):
        assert outcome(content) in ("read", "unsafe_pickle", "truncated", "unsupported")


def test_any_flipped_byte_of_a_pickle_is_refused_or_gives_plain_values() -> None:
    pickled = zipfile.ZipFile(io.BytesIO(dump_torch({"name": "a", "images": CODES, "texts": "b"}))).read(
        "archive/data.pkl"
    )
    for index in range(len(pickled)):
        for value in (0, pickled[index] ^ 1, pickled[index] ^ 0x40, 255):
            damaged = pickled[:index] + bytes([value]) + pickled[index + 1 :]
            assert outcome(torch_zip(damaged)) in ("read", "unsafe_pickle", "unsupported")


def test_a_written_file_is_read_back_and_always_the_same() -> None:
    text = "same text twice"
    first = dump_torch({"name": text, "images": CODES, "texts": text})
    assert first == dump_torch({"name": text, "images": CODES.copy(), "texts": "".join(["same text", " twice"])})
    found = load_torch(first)
    assert (found["name"], found["texts"]) == (text, text)
    assert found["images"].dtype == np.int64
    assert found["images"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<i8", ">i8", "<i4", "<u2", ">i2", "<u1"])
def test_arrays_of_any_integers_and_orders_are_read(protocol: int, dtype: str) -> None:
    for array in (CODES.astype(dtype), np.asfortranarray(CODES.astype(dtype))):
        found = load_torch(torch_zip(pickle.dumps({"images": array}, protocol=protocol)))["images"]
        assert np.array_equal(found, CODES)


@pytest.mark.parametrize("array", [CODES.astype(float), np.array(["a"]), np.array([None]), np.array([True])])
def test_arrays_of_anything_else_are_refused(array: np.ndarray) -> None:
    with pytest.raises(RefusedInput, match="unsafe_pickle"):
        load_torch(torch_zip(pickle.dumps({"images": array}, protocol=2)))


@pytest.mark.filterwarnings("default")
def test_torch_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "ours.pth").write_bytes(dump_torch({"name": "ключ", "images": CODES, "texts": ""}))
    found = torch.load(tmp_path / "ours.pth", weights_only=False)
    assert (found["name"], found["texts"], found["images"].dtype) == ("ключ", "", np.int64)
    assert np.array_equal(found["images"], CODES)
    tensor = torch.from_numpy(CODES)
    for images in (CODES, tensor, tensor.int(), tensor.short(), torch.arange(10)[2:8].reshape(3, 2).T, tensor[:, 1:]):
        torch.save({"name": "a", "images": images, "texts": "b"}, tmp_path / "theirs.pth")
        read = load_torch((tmp_path / "theirs.pth").read_bytes())
        assert read["images"].tolist() == images.tolist()
    torch.save({"images": tensor.float()}, tmp_path / "theirs.pth")
    with pytest.raises(RefusedInput, match=r"unsafe_pickle: asks for torch\.FloatStorage"):
        load_torch((tmp_path / "theirs.pth").read_bytes())
    torch.save({"images": tensor}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(RefusedInput, match=r"unsupported: .* torch 1\.6"):
        load_torch((tmp_path / "old.pth").read_bytes())


@pytest.mark.parametrize("size", [(2, 9), (10**9, 10**9), (-1, -6), (0, 0)])
@pytest.mark.parametrize("stride", [(0, 0), (3, 1), (10**6, 1), (-3, 1)])
def test_a_tensor_reads_nothing_outside_its_storage(size: tuple[int, int], stride: tuple[int, int]) -> None:
    """Written by hand: rebuild(storage '0' of 6 numbers, offset 1, size, stride)."""

    def pair(values: tuple[int, int]) -> bytes:
        return b"".join(b"\x8a\x08" + value.to_bytes(8, "little", signed=True) for value in values) + b"\x86"

    storage = b"(X\x07\0\0\0storagectorch\nLongStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x01" + pair(size) + pair(stride) + b"\x89}tR"
    data = torch_zip(b"\x80\x02}X\x06\0\0\0images" + tensor + b"s.", **{"data/0": CODES.astype("<i8").tobytes()})
    expected = "read" if size == (0, 0) else "unsafe_pickle"
    assert outcome(data) == expected


def test_a_zip_bomb_is_not_unpacked() -> None:
    sink = io.BytesIO()
    with (
        zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(RefusedInput, match="unsupported: 314572800 bytes unpacked"):
        load_torch(sink.getvalue())


def test_rows_exported_in_upstreams_layout_come_back_but_for_their_origin(tmp_path: Path) -> None:
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
        with pytest.raises(UsageError, match="path_list"):
            import_dataset(ImportOptions(str(tmp_path / "in"), str(tmp_path / "back"), CODEC))


def test_an_image_is_written_flat_and_a_clip_with_its_frames(tmp_path: Path) -> None:
    from shared.exchange.formats.upstream import dump_sample

    assert load_torch(dump_sample(image(0, "a")))["images"].shape == (4, 6)
    assert load_torch(dump_sample(code_rows()[-1]))["images"].shape == (3, 4, 6)
