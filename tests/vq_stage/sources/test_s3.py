"""Folders, lists, tars and tables in an object store: S3 as moto emulates it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path
from tests.support.bad_pictures import encoded, picture
from tests.support.small_tars import SAMPLES, tar_bytes
from vq_stage.media.image_decoding import read_bytes, read_size
from vq_stage.sources.files import open_file
from vq_stage.sources.media_source import MediaItem, MediaSource
from vq_stage.sources.open_source import open_source

PICTURE = encoded(picture(1), "PNG")
LARGE_VIDEO = bytes(range(256)) * 10_000  # more than two blocks


@pytest.fixture(scope="module")
def bucket(s3: Callable[[str], str]) -> str:
    return s3("pictures")


def put(url: str, content: bytes) -> None:
    as_path(url).write_bytes(content)


def read(source: MediaSource, item: MediaItem) -> bytes:
    with source.open(item.uri, item.locator) as file:
        return read_bytes(file)


def test_a_folder(bucket: str) -> None:
    root = f"{bucket}/folder"
    put(f"{root}/b.png", PICTURE)
    put(f"{root}/sub/two words ü#1?.png", PICTURE)
    put(f"{root}/sub/two words ü#1?.txt", b"a caption")
    put(f"{root}/sub.png", PICTURE)
    put(f"{root}/sub/metadata.jsonl", b'{"file_name": "clip.mp4", "text": "it moves"}\n')
    put(f"{root}/sub/clip.mp4", LARGE_VIDEO)
    put(f"{root}/walk.frames/1.png", PICTURE)
    as_path(bucket).fs.touch("pictures/folder/sub/")  # as consoles mark folders
    source = open_source(root)
    items = list(source)
    assert [(item.key, item.uri, item.text, item.kind) for item in items] == [
        ("b", "b.png", None, "image"),
        ("sub", "sub.png", None, "image"),
        ("sub/clip", "sub/clip.mp4", "it moves", "video"),
        ("sub/two words ü#1?", "sub/two words ü#1?.png", "a caption", "image"),
        ("walk", "walk.frames", None, "video"),
    ]
    with source.open("sub/two words ü#1?.png") as file:
        assert read_size(file) == (16, 24)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda item: read(source, item), [items[2]] * 8)) == {LARGE_VIDEO}
    assert source.frames("walk.frames") == ["walk.frames/1.png"]
    with source.open("sub/clip.mp4") as file:
        assert (file.seek(-3, 2), file.read(), file.seek(300), file.read(2)) == (2_559_997, b"\xfd\xfe\xff", 300, b",-")


def test_files_have_a_size_limit(bucket: str) -> None:
    for name, size_bytes in (("empty", 0), ("fits", 6), ("large", 7)):
        put(f"{bucket}/limited/{name}.png", bytes(size_bytes))
    root = as_path(f"{bucket}/limited")
    with open_file(root / "fits.png", is_fetched=True, max_bytes=6) as file:
        assert file.read() == bytes(6)
    for name, reason in (("empty", "empty"), ("large", "too_large"), ("gone", "missing")):
        with pytest.raises(RefusedInput) as refusal:
            open_file(root / f"{name}.png", is_fetched=True, max_bytes=6)
        assert refusal.value.reason == reason


def test_additions_are_listed(bucket: str) -> None:
    """Listings are not cached: a job that is resumed after days must see what was added."""
    put(f"{bucket}/growing/a.png", PICTURE)
    assert [item.key for item in open_source(f"{bucket}/growing")] == ["a"]
    put(f"{bucket}/growing/b.png", PICTURE)
    assert [item.key for item in open_source(f"{bucket}/growing")] == ["a", "b"]


def test_tars(bucket: str) -> None:
    for number in range(2):
        put(f"{bucket}/tars/{number}.tar", tar_bytes({**SAMPLES, "9.mp4": LARGE_VIDEO}))
    for location in (f"{bucket}/tars/{{0..1}}.tar", f"{bucket}/tars/*.tar", f"{bucket}/tars"):
        source = open_source(location)
        items = list(source)
        assert [item.uri.partition("/")[0] for item in items] == ["0.tar"] * 6 + ["1.tar"] * 6
    contents = {item.uri.partition("/")[2]: read(source, item) for item in items}
    assert contents == {name: {**SAMPLES, "9.mp4": LARGE_VIDEO}[name] for name in contents}


def test_a_table(bucket: str) -> None:
    buffer = io.BytesIO()
    content = {"jpg": [b"image %d" % n for n in range(9)], "caption": [f"caption {n}" for n in range(9)]}
    pq.write_table(pa.table(content), buffer, row_group_size=2)
    put(f"{bucket}/tables/data.parquet", buffer.getvalue())
    source = open_source(f"{bucket}/tables/data.parquet")
    assert [(read(source, item).decode(), item.text) for item in source] == [
        (f"image {n}", f"caption {n}") for n in range(9)
    ]


def test_a_list_of_urls(bucket: str) -> None:
    put(f"{bucket}/lists/sub/a.png", PICTURE)
    put(f"{bucket}/elsewhere/b.png", PICTURE)
    entries = [{"image": "sub/a.png"}, {"image": f"{bucket}/elsewhere/b.png"}, {"image": "gone.png"}]
    put(f"{bucket}/lists/list.jsonl", "\n".join(map(json.dumps, entries)).encode())
    source = open_source(f"{bucket}/lists/list.jsonl")
    first, second, third = source
    assert [read(source, first), read(source, second)] == [PICTURE, PICTURE]
    with pytest.raises(RefusedInput, match="missing"):
        source.open(third.uri)


def test_missing_locations(bucket: str) -> None:
    for name in ("nothing", "nothing.tar", "nothing.jsonl", "{0..3}/nothing.tar"):
        with pytest.raises(UsageError, match="none of these"):
            open_source(f"{bucket}/{name}")
    with pytest.raises(UsageError, match="no-such-bucket"):
        open_source("s3://no-such-bucket/folder")
