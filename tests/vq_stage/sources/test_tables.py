"""Tables: columns by name and type, rows read from their batch, damaged files."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import Interrupted, RefusedInput, UsageError
from shared.storage.paths import as_path
from vq_stage.sources import tables
from vq_stage.sources.media_source import MediaItem, MediaSource, as_extra_json
from vq_stage.sources.open_source import open_source
from vq_stage.sources.table_files import BatchCache
from vq_stage.sources.tables import TableSource

FORMATS = ("parquet", "file.arrow", "stream.arrow")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(rows: int, first: int = 0, **columns: Any) -> pa.Table:
    images = pa.array([{"bytes": b"image %d" % n, "path": None} for n in range(first, first + rows)], IMAGE)
    return pa.table({"image": images, **columns})


def write(path: Path, content: pa.Table, batch_rows: int = 3) -> Path:
    with path.open("wb") as file:
        if path.name.endswith("parquet"):
            pq.write_table(content, file, row_group_size=batch_rows)
            return path
        new = pa.ipc.new_file if path.name.endswith("file.arrow") else pa.ipc.new_stream
        with new(file, content.schema) as writer:
            writer.write_table(content, max_chunksize=batch_rows)
    return path


def read(source: MediaSource, item: MediaItem) -> bytes:
    with source.open(item.uri, item.locator) as file:
        return file.read()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("location", ["disk", "memory"])
def test_rows_in_order_and_their_images(format: str, location: str, tmp_path: Path) -> None:
    folder = as_path(str(tmp_path) if location == "disk" else f"memory://{uuid.uuid4().hex}")
    path = write(folder / f"data.{format}", table(7, text=[f"caption {n}" for n in range(6)] + [None]))
    source = open_source(str(path))
    items = list(source)
    assert [item.uri for item in items] == [f"{path.name}#{n}" for n in range(7)]
    assert [item.key for item in items] == [f"{path.name.rpartition('.')[0]}-{n:08d}" for n in range(7)]
    assert [item.text for item in items] == [*[f"caption {n}" for n in range(6)], None]
    assert [read(source, item) for item in reversed(items)] == [b"image %d" % n for n in reversed(range(7))]
    assert [item.locator[1] for item in items if item.locator] == [0, 1, 2, 0, 1, 2, 0]


def test_a_dataset_as_hugging_face_saves_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = [b"image %d" % n for n in range(5)]
    rows = {"image": [{"bytes": image, "path": None} for image in images], "text": list("abcde")}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    source = open_source(tmp_path / "saved")
    assert [(read(source, item), item.text) for item in source] == list(zip(images, "abcde"))


@pytest.mark.parametrize(
    ("column", "values", "text"),
    [
        ("caption", ["a", "b"], "a"),
        ("captions", [["a", "z"], []], "a"),
        ("prompt", pa.array(["a", "b"], pa.large_string()), "a"),
        ("sentence", pa.array(["a", "b"]).dictionary_encode(), "a"),
        ("TEXT", ["a", "b"], "a"),
        ("captions", [[{"caption": "a"}], [{"caption": "b"}]], "a"),
        ("caption_0", ["a", "b"], "a"),
        ("text", [1, 2], None),
        ("label", ["a", "b"], None),
    ],
)
def test_caption_columns(column: str, values: Any, text: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", table(2, **{column: values}))
    assert next(iter(open_source(path))).text == text


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("key", ["x", "y"], ["x", "y"]),
        ("__key__", ["x", None], ["x", "data-00000001"]),
        ("id", [0, 41], ["0", "41"]),
        ("file_name", ["a/b.png", ""], ["a/b.png", "data-00000001"]),
        ("id", [0.5, 1.5], ["data-00000000", "data-00000001"]),
    ],
)
def test_key_columns(column: str, values: Any, expected: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", table(2, **{column: values}))
    assert [item.key for item in open_source(path)] == expected


@pytest.mark.parametrize("column", ["jpg", "png", "webp", "img", "image_bytes", "bytes", "Image", "images"])
@pytest.mark.parametrize("type", [pa.binary(), pa.large_binary(), pa.binary(1), pa.list_(pa.binary())])
def test_plain_bytes(column: str, type: pa.DataType, tmp_path: Path) -> None:
    values = [[b"x"]] if pa.types.is_list(type) else [b"x"]
    path = write(tmp_path / "data.parquet", pa.table({column: pa.array(values, type)}))
    source = open_source(path)
    (item,) = source
    assert (item.kind, read(source, item)) == ("image", b"x")


def test_all_texts_of_a_row_are_kept(tmp_path: Path) -> None:
    values = [["a", None, "b"], [], None]
    items = list(open_source(write(tmp_path / "data.parquet", table(3, captions=values, prompt=["p", "q", None]))))
    assert [(item.text, item.extra_json) for item in items] == [("a", '{"texts":["a","b"]}'), ("q", None), (None, None)]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_with_one_key_and_one_image_are_one_item(format: str, tmp_path: Path) -> None:
    """Also far apart; the same key for another image is one of two, and the other key is that of its row."""
    images = [b"x", b"y", b"x", b"z", b"y"]
    columns = {"image": images, "image_id": [0, 1, 0, 0, 1], "caption": list("abcde")}
    source = open_source(write(tmp_path / f"data.{format}", pa.table(columns)))
    name = f"data.{format}".rpartition(".")[0]
    items = list(source)
    assert [(item.key, read(source, item), item.text, item.extra_json) for item in items] == [
        ("0", b"x", "a", '{"texts":["a","c"]}'),
        ("1", b"y", "b", '{"texts":["b","e"]}'),
        ("0", b"z", "d", None),
    ]
    assert [(item.key_repeats, item.other_keys[0]) for item in items] == [
        (True, f"{name}-00000000"),
        (False, f"{name}-00000001"),
        (True, f"{name}-00000003"),
    ]


def test_images_are_compared_only_where_keys_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of a key whose rows are all planned: a resumed job would read the whole table again."""
    path = write(tmp_path / "data.parquet", table(6, id=["a", "b", "c", "b", "d", "d"]))
    hashed: list[str] = []
    digest = TableSource._content_digest

    def recorded(source: TableSource, item: MediaItem) -> bytes:
        hashed.append(item.uri)
        return digest(source, item)

    monkeypatch.setattr(TableSource, "_content_digest", recorded)
    assert [item.key for item in open_source(path)] == ["a", "b", "c", "b", "d", "d"]
    assert hashed == [f"data.parquet#{n}" for n in (1, 3, 4, 5)]
    hashed.clear()
    planned = {f"data.parquet#{n}" for n in range(5)}
    assert [item.uri for item in open_source(path).items(lambda item: item.uri in planned)] == ["data.parquet#5"]
    assert hashed == ["data.parquet#4", "data.parquet#5"]


def test_a_signal_stops_the_comparison_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t.parquet", pa.table({"key": ["same"] * 9, "image": [f"{n}".encode() for n in range(9)]}))
    opened: list[str] = []

    def stopping(item: MediaItem) -> bool:
        if len(opened) == 2:
            raise Interrupted("stopped")
        return False

    monkeypatch.setattr(TableSource, "sha256", lambda source, uri, locator: opened.append(uri) or uri.encode())
    with pytest.raises(Interrupted):
        next(open_source(tmp_path / "t.parquet").items(stopping))
    assert len(opened) == 2


def test_tables_of_one_name_are_different(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.file.arrow"):
        write(tmp_path / name, table(1, first=len(name)))
    (tmp_path / "a.file.arrow").rename(tmp_path / "a.arrow")
    items = list(open_source(tmp_path))
    assert [(item.key, item.key_repeats, item.other_keys[-1]) for item in items] == [
        ("a-00000000", True, "a.arrow-00000000"),
        ("a-00000000", True, "a.parquet-00000000"),
    ]


def test_a_chosen_key_column(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", table(3, id=[1, 2, 3], score=[1.0, 2.5, None]))
    assert [item.key for item in open_source(path, key="score")] == ["1", "2.5", "data-00000002"]
    with pytest.raises(UsageError, match="--key uid: no such column; found image, id, score"):
        list(open_source(path, key="uid"))


@pytest.mark.parametrize("column", ["video", "mp4"])
def test_uris_of_videos_have_a_video_suffix(column: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", pa.table({column: [b"moving"]}))
    source = open_source(path)
    (item,) = source
    assert (item.kind, item.uri, read(source, item)) == ("video", "data.parquet#0.mp4", b"moving")


def test_a_column_of_bytes_is_preferred_to_one_of_paths(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", pa.table({"image": ["a.png"], "jpg": [b"x"]}))
    source = open_source(path)
    assert [read(source, item) for item in source] == [b"x"]


def test_conversations_of_a_table(tmp_path: Path) -> None:
    good = [{"from": "human", "value": "<image>Who?"}, {"from": "gpt", "value": "Me."}]
    path = write(tmp_path / "data.parquet", table(3, conversations=[good, good[:1], None]))
    first, second, third = open_source(path)
    assert first.extra_json == as_extra_json({"conversations": good, "question": "Who?", "answer": "Me."})
    assert second.refusal is not None
    assert second.refusal[0] == "bad_entry"
    assert (third.extra_json, third.refusal) == (None, None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": ["https://host/a.png"], "text": ["a"]}, "img2dataset"),
        ({"label": [1]}, "no column of images or videos.*label int64"),
        ({"picture": [1]}, "picture int64"),
    ],
)
def test_tables_without_images_are_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        list(open_source(write(tmp_path / "data.parquet", pa.table(columns))))


def test_a_column_of_paths(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"a")
    columns = {"image": ["a.png", "b.mp4", "a.png", None], "text": list("wxyz")}
    write(tmp_path / "sub" / "data.parquet", pa.table(columns))
    write(tmp_path / "other.parquet", table(1))
    source = open_source(f"{tmp_path}/{{sub/data,other}}.parquet")
    first, video, null, _ = source
    assert (first.key, first.uri, first.locator, read(source, first)) == ("sub/a", "sub/a.png", None, b"a")
    assert (first.text, first.extra_json) == ("w", '{"texts":["w","y"]}')
    assert (video.kind, video.key, null.refusal and null.refusal[0]) == ("video", "sub/b", "missing")
    with pytest.raises(RefusedInput, match="missing"):
        read(source, video)


def test_rows_without_an_image(tmp_path: Path) -> None:
    values = [{"bytes": None, "path": "/data/a.png"}, {"bytes": b"", "path": None}, None, {"bytes": b"x", "path": None}]
    source = open_source(write(tmp_path / "data.parquet", pa.table({"image": pa.array(values, IMAGE)})))
    found = []
    for item in source:
        try:
            found.append(read(source, item).decode())
        except RefusedInput as refused:
            found.append(f"{refused.reason}: {refused.detail}")
    assert "save the dataset with embedded images" in found[0]
    assert [text.partition(":")[0] for text in found] == ["missing", "empty", "missing", "x"]


@pytest.mark.parametrize("location", ["*.parquet", "", "{0..2}.parquet"])
def test_several_tables(location: str, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", table(2, 2 * number))
    source = open_source(f"{tmp_path}/{location}")
    assert [read(source, item) for item in source] == [b"image %d" % n for n in range(6)]
    assert [item.uri for item in source][::2] == ["0.parquet#0", "1.parquet#0", "2.parquet#0"]


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_damaged_table_is_refused(format: str, tmp_path: Path) -> None:
    """Truncate the table at any offset; the tables beside it are still listed."""
    suffix = format.rpartition(".")[2]
    whole = write(tmp_path / f"0.{format}", table(9, text=["text"] * 9)).read_bytes()
    write(tmp_path / f"1.{suffix}" if suffix == "parquet" else tmp_path / f"1.{format}", table(1))
    for length in range(1, len(whole), len(whole) // 17):
        (tmp_path / f"0.{format}").write_bytes(whole[:length])
        items = list(open_source(tmp_path))
        assert [item.key for item in items if item.refusal] == [f"0.{format}".rpartition(".")[0] + "-damaged"]
        assert items[-1].refusal is None
    (tmp_path / f"0.{format}").write_bytes(whole)
    assert len(list(open_source(tmp_path))) == 10


@pytest.mark.parametrize("format", FORMATS)
def test_overwritten_bytes_are_read_or_refused(format: str, tmp_path: Path) -> None:
    """Arrow trusts the offsets it reads: a damaged file must not be read out of bounds."""
    path = write(tmp_path / f"0.{format}", table(9, text=["text"] * 9))
    whole = path.read_bytes()
    items = list(open_source(path))
    for position in range(0, len(whole), 13):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        source = open_source(path)
        with suppress(UsageError):
            assert len(list(islice(source, 20))) < 20
        for item in items[::4]:
            with suppress(RefusedInput):
                assert len(read(source, item)) < len(whole)


def test_rows_of_a_replaced_table_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "0.parquet", table(1))
    source = open_source(path)
    (item,) = source
    write(path, pa.table({"label": [1]}))
    with pytest.raises(RefusedInput, match="no column of images"):
        read(source, item)


def test_a_stream_with_a_dictionary_is_refused_with_advice(tmp_path: Path) -> None:
    path = write(tmp_path / "0.stream.arrow", table(2, label=pa.array(["a", "b"]).dictionary_encode()))
    with pytest.raises(UsageError, match="save the table as Parquet"):
        list(open_source(path))


def test_locators_outside_the_table_are_refused(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "0.parquet", table(3)))
    for uri, locator, reason in [
        ("0.parquet#7", (0, 7), "missing"),
        ("0.parquet#0", (5, 0), "unreadable"),
        ("1.parquet#0", (0, 0), "missing"),
    ]:
        with pytest.raises(RefusedInput) as refused:
            source.open(uri, locator)
        assert refused.value.reason == reason


def test_rows_of_a_batch_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads read rows in order: every row group is decoded once."""
    source = open_source(write(tmp_path / "0.parquet", table(60), batch_rows=20))
    decoded: Counter[int] = Counter()
    decode = tables._media_column

    def counting(path: Path, number: int) -> Any:
        decoded[number] += 1
        return decode(path, number)

    monkeypatch.setattr(tables, "_media_column", counting)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: read(source, item), source))
    assert found == [b"image %d" % n for n in range(60)]
    assert decoded == {0: 1, 1: 1, 2: 1}


def test_the_cache_is_bounded_and_keeps_at_least_two_batches() -> None:
    cache, column = BatchCache(max_bytes=3000), pa.array([b"x" * 1000])
    loads: list[int] = []

    def get(number: int) -> None:
        cache.get(("t", number), lambda: loads.append(number) or column)

    for number in (0, 1, 2, 0, 3, 0, 1):
        get(number)
    assert loads == [0, 1, 2, 0, 3, 1], "2 rows of 1008 bytes fit; the one used last stays"
    large = BatchCache(max_bytes=1)
    loads.clear()
    cache = large
    for number in (0, 1, 0, 1, 0):
        get(number)
    assert loads == [0, 1], "threads at the end of one batch and the start of the next do not evict each other"


def test_an_error_while_loading_a_batch_is_not_cached() -> None:
    cache, tries = BatchCache(), []

    def load() -> pa.Array:
        tries.append(0)
        time.sleep(0.05)
        if len(tries) == 1:
            raise RefusedInput("unreadable", "once")
        return pa.array([b"x"])

    def get() -> str:
        try:
            return str(len(cache.get(("t", 0), load)))
        except RefusedInput as refused:
            return refused.detail

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert get() == "1"


def test_captions_are_read_lazily(tmp_path: Path) -> None:
    """Only the second row group is damaged, so the rows of the first are listed."""
    path = write(tmp_path / "0.parquet", table(4000, text=[f"caption {n}" for n in range(4000)]), batch_rows=2000)
    start = pq.ParquetFile(path).metadata.row_group(1).column(2).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    items = list(open_source(path))
    assert [item.text for item in items[:2000]] == [f"caption {n}" for n in range(2000)]
    assert [item.refusal and item.refusal[0] for item in items[2000:]] == ["unreadable"]
