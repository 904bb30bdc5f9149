"""WebDataset shards: samples, captions, unsafe members, truncated shards, and reading in place."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path
from tests.support.small_tars import SAMPLES, add_member, tar_bytes
from vq_stage.sources import webdataset
from vq_stage.sources.media_source import MediaItem, MediaSource, as_extra_json
from vq_stage.sources.open_source import open_source


def read(source: MediaSource, item: MediaItem) -> bytes:
    with source.open(item.uri, item.locator) as file:
        return file.read()


def reasons(items: list[MediaItem]) -> list[str | None]:
    return [item.refusal[0] if item.refusal else None for item in items]


@pytest.mark.parametrize("location", ["disk", "memory"])
def test_samples_of_a_shard(location: str, tmp_path: Path) -> None:
    path = as_path(str(tmp_path / "00.tar") if location == "disk" else f"memory://{uuid.uuid4().hex}/00.tar")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(SAMPLES))
    source = open_source(str(path))
    items = list(source)
    assert [(item.key, item.uri, item.kind, item.text, item.extra_json) for item in items] == [
        ("0001", "00.tar/0001.jpg", "image", "a cat", '{"nsfw":false,"score":0.5,"width":640}'),
        ("sub/0002", "00.tar/sub/0002.WebP", "image", "a dog", '{"url":"https://host/2"}'),
        ("0003", "00.tar/0003.mp4", "video", "it moves", None),
        ("0005.left.png", "00.tar/0005.left.png", "image", None, None),
        ("0005.right.png", "00.tar/0005.right.png", "image", None, None),
    ]
    assert [read(source, item) for item in items] == [
        b"first picture",
        b"second picture",
        b"a video",
        b"left",
        b"right",
    ]
    assert reasons(items) == [None] * 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its reader leaves the file open
def test_shards_written_by_the_webdataset_library(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "0.tar")) as writer:
        for n in range(3):
            writer.write({"__key__": f"a/{n}", "jpg": bytes([n]) * 9, "txt": f"n {n}", "json": {"n": n}})
    source = open_source(tmp_path)
    theirs = wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False)
    expected = [(sample["__key__"], sample["jpg"]) for sample in theirs]
    assert [(item.key, read(source, item)) for item in source] == expected
    assert [(item.text, item.extra_json) for item in source] == [(f"n {n}", f'{{"n":{n}}}') for n in range(3)]


@pytest.mark.parametrize("location", ["{00..02}.tar", "*.tar", "0[0-2].tar", "", "{01,00,02}.tar"])
def test_several_shards(location: str, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar_bytes({f"{number}.jpg": b"x%d" % number}))
    source = open_source(f"{tmp_path}/{location}")
    order = [1, 0, 2] if "," in location else [0, 1, 2]
    assert [item.uri for item in source] == [f"{n:02d}.tar/{n}.jpg" for n in order]
    assert [read(source, item) for item in source] == [b"x%d" % n for n in order]


def test_uris_of_shards_in_several_folders_start_at_the_common_folder(tmp_path: Path) -> None:
    for name in ("a.tar/0.tar", "b/0.tar"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(tar_bytes({"k.tar/1.jpg": name.encode()}))
    source = open_source(f"{tmp_path}/{{a.tar,b}}/0.tar")
    items = list(source)
    assert [item.uri for item in items] == ["a.tar/0.tar/k.tar/1.jpg", "b/0.tar/k.tar/1.jpg"]
    assert [read(source, item) for item in items] == [b"a.tar/0.tar", b"b/0.tar"]


def test_remote_globs(tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    for number in range(2):
        as_path(f"{folder}/{number}.tar").write_bytes(tar_bytes({f"{number}.jpg": b"x%d" % number}))
    for location in (f"{folder}/*.tar", f"{folder}/{{0..1}}.tar", folder):
        source = open_source(location)
        assert [(item.uri, read(source, item)) for item in source] == [("0.tar/0.jpg", b"x0"), ("1.tar/1.jpg", b"x1")]


def test_unsafe_members_are_refused_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_member(tar, "good.jpg", b"good")
        add_member(tar, "/etc/evil.jpg", b"evil")
        add_member(tar, "../up.jpg", b"evil")
        add_member(tar, "a/../../up.jpg", b"evil")
        add_member(tar, "soft.jpg", type=tarfile.SYMTYPE)
        add_member(tar, "hard.jpg", type=tarfile.LNKTYPE)
        add_member(tar, "device.jpg", type=tarfile.CHRTYPE)
        add_member(tar, "folder.jpg", type=tarfile.DIRTYPE)
        add_member(tar, "last.jpg", b"last")
        add_member(tar, "last.txt", type=tarfile.SYMTYPE)
    items = list(open_source(tmp_path / "0.tar"))
    found = dict(zip([item.key for item in items], reasons(items)))
    names = ["/etc/evil.jpg", "../up.jpg", "a/../../up.jpg", "soft.jpg", "hard.jpg", "device.jpg", "last.txt"]
    assert found == {"good": None, "last": None, **dict.fromkeys(names, "bad_name")}
    assert [item.text for item in items if item.key == "last"] == [None]


@pytest.mark.parametrize(
    "files",
    [{"a.txt": b"caf\xe9"}, {"a.json": b"{"}, {"a.json": b"\xff"}, {"a.txt": b"x" * (1 << 20) + b"x"}],
)
def test_only_the_sample_with_an_unreadable_caption_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes({"a.jpg": b"a", **files, "b.jpg": b"b", "b.txt": b"good"}))
    items = list(open_source(tmp_path / "0.tar"))
    assert reasons(items) == ["caption_unreadable", None]
    assert items[1].text == "good"


def test_conversations_in_a_shard(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image> Who?"}, {"from": "gpt", "value": "Me."}]
    fields = json.dumps({"id": 3, "conversations": turns}).encode()
    (tmp_path / "0.tar").write_bytes(tar_bytes({"a.jpg": b"a", "a.json": fields}))
    (item,) = open_source(tmp_path / "0.tar")
    assert item.extra_json == as_extra_json({"id": 3, "conversations": turns, "question": "Who?", "answer": "Me."})


def test_a_truncated_shard_yields_its_intact_members(tmp_path: Path) -> None:
    """At any byte: intact members before it, then one refusal; every listed item can be read."""
    data = tar_bytes({f"{n}.jpg": bytes([n]) * 700 for n in range(4)})  # 512 + 1024 bytes each
    path = tmp_path / "0.tar"
    for length in range(1, 4 * 1536 + 512, 97):
        path.write_bytes(data[:length])
        source = open_source(path)
        *whole, last = source
        assert (last.key, last.refusal and last.refusal[0]) == ("0-damaged", "truncated")
        assert [read(source, item) for item in whole] == [bytes([n]) * 700 for n in range(len(whole))]
        assert len(whole) == (length - 1212) // 1536 + 1
    path.write_bytes(data[: 4 * 1536 + 512])
    assert len(list(open_source(path))) == 4


def test_files_that_are_not_tars_are_refused(tmp_path: Path) -> None:
    """The shards beside a bad one are listed."""
    (tmp_path / "0.tar").write_bytes(b"")
    (tmp_path / "1.tar").write_bytes(b"<html>404</html>" * 100)
    (tmp_path / "2.tar").write_bytes(tar_bytes({"a.jpg": b"a"}))
    items = list(open_source(f"{tmp_path}/{{0..3}}.tar"))
    assert [(item.key, reason) for item, reason in zip(items, reasons(items))] == [
        ("0-damaged", "empty"),
        ("1-damaged", "truncated"),
        ("a", None),
        ("3-damaged", "missing"),
    ]


def test_a_gzipped_tar_without_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(gzip.compress(tar_bytes(SAMPLES)))
    with pytest.raises(UsageError, match="decompress it first"):
        list(open_source(tmp_path / "0.tar"))


def test_a_tar_without_media(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes({"a.txt": b"a"}))
    with pytest.raises(UsageError, match="no images"):
        list(open_source(tmp_path / "0.tar"))


@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_shard_is_listed_or_refused(flips: list[tuple[int, int]]) -> None:
    """Overwritten bytes cause no crash, no endless loop, and no offset outside the shard."""
    data = bytearray(tar_bytes({"a.jpg": b"a" * 600, "a.txt": b"a cat", "b.jpg": b"b"}))
    for position, value in flips:
        data[position] = value
    path = as_path("memory://damaged/0.tar")
    path.write_bytes(bytes(data))
    source = open_source(str(path))
    try:
        items = list(islice(source, 50))
    except UsageError:
        return
    assert len(items) < 10
    for item in items:
        if item.refusal is None and item.locator and item.locator[1]:
            assert len(read(source, item)) == item.locator[1]


def test_members_are_read_in_place_by_many_threads(tmp_path: Path) -> None:
    files = {f"{n}.jpg": os.urandom(5000 + n) for n in range(40)}
    (tmp_path / "0.tar").write_bytes(tar_bytes(files))
    source = open_source(tmp_path / "0.tar")
    items = list(source) * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: read(source, item), items)) == list(files.values()) * 5


def test_a_member_is_a_seekable_file(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes({"a.mp4": b"0123456789", "b.mp4": b"other"}))
    source = open_source(tmp_path / "0.tar")
    first = next(iter(source))
    with source.open(first.uri, first.locator) as file:
        assert (file.seek(0, 2), file.read()) == (10, b"")
        assert (file.seek(-3, 2), file.read(2), file.tell(), file.read(), file.read()) == (7, b"78", 9, b"9", b"")
        assert (file.seek(100), file.read()) == (100, b"")


def test_locators_outside_the_shard_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_bytes({"a.jpg": b"a"}))
    source = open_source(tmp_path / "0.tar")
    for uri, locator, reason in [
        ("0.tar/a.jpg", (512, 0), "empty"),
        ("0.tar/a.jpg", (512, 1 << 20), "truncated"),
        ("0.tar/a.jpg", None, "missing"),
        ("1.tar/a.jpg", (512, 1), "missing"),
    ]:
        with pytest.raises(RefusedInput) as refused:
            source.open(uri, locator)
        assert refused.value.reason == reason


def captions(files: dict[str, bytes], tmp_path: Path) -> dict[str, str | None]:
    (tmp_path / "0.tar").write_bytes(tar_bytes(files))
    return {item.uri.removeprefix("0.tar/"): item.text for item in open_source(tmp_path / "0.tar")}


def test_captions_are_found_wherever_in_the_shard_they_are(tmp_path: Path) -> None:
    images = {f"{n}.JPG": b"x" for n in range(3)}
    texts = {f"{n}.{suffix}": b"of %d" % n for n, suffix in enumerate(["txt", "TXT", "Caption"])}
    expected = {f"{n}.JPG": f"of {n}" for n in range(3)}
    assert captions({**images, **texts}, tmp_path) == expected
    assert captions({**texts, **images}, tmp_path) == expected


def test_names_with_dots(tmp_path: Path) -> None:
    files = {f"Photo 2.{n} final.jpg": b"x" for n in range(3)}
    files |= {"Photo 2.0 final.txt": b"zero", "Photo 2.2 final.json": b'{"text": "two"}'}
    files |= {"v1.0/1.jpg": b"x", "v1.0/1.txt": b"one", "a.left.png": b"x", "a.right.png": b"x", "a.txt": b"both"}
    assert captions(files, tmp_path) == {
        "Photo 2.0 final.jpg": "zero",
        "Photo 2.1 final.jpg": None,
        "Photo 2.2 final.jpg": "two",
        "v1.0/1.jpg": "one",
        "a.left.png": "both",
        "a.right.png": "both",
    }


def test_fields_of_json_and_their_spellings(tmp_path: Path) -> None:
    files = {"a.jpg": b"x", "a.json": b'{"TEXT": null, "captions": ["one", "two"], "n": NaN, "id": 3}'}
    (tmp_path / "0.tar").write_bytes(tar_bytes({**files, "b.jpg": b"x", "b.txt": b" ", "b.json": b'{"prompt": "p"}'}))
    first, second = open_source(tmp_path / "0.tar")
    assert (first.text, first.extra_json) == ("one", '{"id":3,"texts":["one","two"]}')
    assert second.text == "p"


def test_hidden_members_and_captions_without_an_image_are_counted(tmp_path: Path) -> None:
    files = {"__MACOSX/._a.jpg": b"x", "._a.jpg": b"x", "a.jpg": b"x", "b.txt": b"b", "c.cls": b"1", ".DS_Store": b"x"}
    (tmp_path / "0.tar").write_bytes(tar_bytes(files))
    source = open_source(tmp_path / "0.tar")
    assert [item.uri for item in source] == ["0.tar/a.jpg"]
    assert (source.report.unused_captions.count, source.report.unused_captions.first) == (1, "0.tar/b.txt")
    assert source.report.skipped["hidden and system files"].count == 3


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for content in (b"one", b"two"):
            add_member(tar, "a.jpg", content)
            add_member(tar, "a.txt", content)
    source = open_source(tmp_path / "0.tar")
    assert [(read(source, item).decode(), item.text) for item in source] == [("one", "one"), ("two", "two")]


def test_keys_of_another_shard_repeat(tmp_path: Path) -> None:
    for shard in range(2):
        (tmp_path / f"{shard}.tar").write_bytes(tar_bytes({"a.jpg": b"%d" % shard}))
    items = list(open_source(tmp_path))
    assert [(item.key, item.key_repeats, item.other_keys) for item in items] == [
        ("a", True, ("a", "0/a")),
        ("a", True, ("a", "1/a")),
    ]


def test_suffixes_of_tars_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "0.TAR").write_bytes(tar_bytes({"a.jpg": b"x"}))
    source = open_source(tmp_path / "0.TAR")
    assert [read(source, item) for item in source] == [b"x"]


def test_captions_of_planned_samples_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00.tar").write_bytes(tar_bytes(SAMPLES))
    read_names: list[str] = []
    read_text = webdataset._read

    def recorded(file: BinaryIO, member: webdataset.Member) -> str:
        read_names.append(member.name)
        return read_text(file, member)

    monkeypatch.setattr(webdataset, "_read", recorded)
    source = open_source(tmp_path / "00.tar")
    assert [(item.key, item.text) for item in source.items(lambda item: item.key != "0003")] == [("0003", "it moves")]
    assert read_names == ["0003.caption"]
