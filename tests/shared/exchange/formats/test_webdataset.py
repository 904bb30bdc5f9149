"""Tars as the webdataset library reads them, names of members, and tars that are damaged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.dataset.rows import CodeRecord
from shared.errors import DatasetError
from shared.exchange.export import export
from shared.exchange.formats.safe_names import safe_name
from shared.exchange.formats.webdataset import WebDataset, dump_members, load_members
from shared.exchange.options import ExportOptions
from tests.support.small_datasets import CODES_SETTINGS, code_rows, image, sequence_rows, write_dataset

webdataset = pytest.importorskip("webdataset")
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=300)


def read(data: bytes) -> list[CodeRecord]:
    return list(WebDataset().load(pa.py_buffer(data), "here.tar"))


def library_samples(path: Path) -> list[dict]:
    return list(webdataset.WebDataset(str(path), shardshuffle=False).decode())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the library leaves the tar open
def test_the_library_reads_codes_texts_and_columns(tmp_path: Path) -> None:
    rows = code_rows()
    dataset = write_dataset(tmp_path / "codes", rows, CODES_SETTINGS)
    export(ExportOptions(str(dataset.root), str(tmp_path / "out")))
    samples = library_samples(tmp_path / "out/codes-00000.tar")
    assert [sample["json"]["key"] for sample in samples] == [row.key for row in rows]
    assert [sample["txt"] for sample in samples] == [row.text or "" for row in rows]
    assert ["text" in sample["json"] for sample in samples] == [row.text is None for row in rows]
    for sample, row in zip(samples, rows):
        assert sample["codes.npy"].dtype == np.uint16
        assert np.array_equal(sample["codes.npy"], row.codes_THW)
        assert sample["json"]["src_sha256"] == row.src_sha256.hex()
        assert sample["__key__"] == safe_name(row.key)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the library leaves the tar open
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(texts, st.none() | texts), unique_by=lambda row: row[0], min_size=1, max_size=6))
def test_any_key_and_text_survive_our_reader_and_the_librarys(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str | None]]
) -> None:
    records = [image(index, key, text=text) for index, (key, text) in enumerate(rows)]
    data = WebDataset().dump(records, CODES_SETTINGS)
    assert [row.digest() for row in read(data)] == [row.digest() for row in records]
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(data)
    found = library_samples(path)
    assert [(sample["json"]["key"], sample["json"].get("text", sample["txt"])) for sample in found] == rows


def test_sequences_survive_with_their_tokens() -> None:
    rows = sequence_rows()
    assert [row.digest() for row in read(WebDataset().dump(rows, CODES_SETTINGS))] == [row.digest() for row in rows]


def test_a_tar_holds_nothing_of_the_machine_or_the_time() -> None:
    with tarfile.open(fileobj=io.BytesIO(WebDataset().dump([image(0, "a")], CODES_SETTINGS))) as archive:
        found = archive.getmembers()
    assert [member.name for member in found] == ["a.codes.npy", "a.json", "a.txt"]
    about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found}
    assert about == {(0, 0, 0, "", "", 0o644)}


def test_a_row_of_known_members() -> None:
    found = dump_members(image(7, "a", text="b", codes_THW=np.array([[[1, 256]]], np.uint16)))
    assert found["codes.npy"].endswith(b"\1\0\0\1")
    assert found["txt"] == b"b"
    assert json.loads(found["json"])["t"] == 1
    assert dump_members(image(7, "a", text=None))["txt"] == b""


@pytest.mark.parametrize("cut", [1, 300, 700, 1500])
def test_a_truncated_tar_is_a_dataset_error(cut: int) -> None:
    with pytest.raises(DatasetError, match=r"here\.tar"):
        read(WebDataset().dump([image(0, "a")], CODES_SETTINGS)[:cut])


@pytest.mark.parametrize(
    "changes",
    [
        {"codes.npy": None},
        {"json": None},
        {"json": b"{"},
        {"json": b"[]"},
        {"json": b'{"key":"a"}'},
        {"codes.npy": b"no array"},
        {"codes.npy": b""},
        {"txt": b"\xff"},
        {"codes.npy": dump_members(image(1, "other"))["codes.npy"]},
        {"codes.npy": dump_members(image(0, "a", codes_THW=np.zeros((1, 2, 2), np.uint16)))["codes.npy"]},
    ],
)
def test_members_that_are_no_row_are_a_dataset_error(changes: dict[str, bytes | None]) -> None:
    parts = {name: data for name, data in {**dump_members(image(0, "a")), **changes}.items() if data is not None}
    with pytest.raises(DatasetError, match="here"):
        load_members(parts, "here")


def test_an_array_of_objects_is_never_unpickled() -> None:
    sink = io.BytesIO()
    np.save(sink, np.array([print], object), allow_pickle=True)
    with pytest.raises(DatasetError, match="allow_pickle"):
        load_members({**dump_members(image(0, "a")), "codes.npy": sink.getvalue()}, "here")


def test_links_and_folders_in_a_tar_are_no_rows() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        link = tarfile.TarInfo("a.codes.npy")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DatasetError, match=r"here\.tar"):
        read(sink.getvalue())


def test_codes_in_another_format_of_numpy_are_damage() -> None:
    archive = io.BytesIO()
    np.savez(archive, codes=np.zeros((1, 2, 3), np.uint16))
    members = {**dump_members(code_rows()[0]), "codes.npy": archive.getvalue()}
    with pytest.raises(DatasetError, match=r"expected \.codes\.npy"):
        load_members(members, "here")
