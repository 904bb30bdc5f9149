"""Folders: videos beside images, order at any depth, lazy listing and reading, on disk and on a remote file system."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dataset.known_keys import KnownKeys
from shared.errors import RefusedInput, UsageError
from shared.storage.paths import as_path
from tests.support.bad_pictures import encoded, picture
from vq_stage.sources import folder as source_folder
from vq_stage.sources import list_files
from vq_stage.sources.files import open_file
from vq_stage.sources.folder import FolderSource, unique_keys
from vq_stage.sources.folder_walk import FolderWalk
from vq_stage.sources.media_source import MediaItem
from vq_stage.sources.open_source import open_source


@pytest.fixture
def remote() -> Iterator[Path]:
    """Yield a folder in fsspec's memory file system, with a name that no other test uses."""
    root = as_path(f"memory://{uuid.uuid4().hex}")
    yield root
    if root.exists():
        root.fs.rm(root.path, recursive=True)  # type: ignore[attr-defined]


def fill(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def listed(root: Path) -> list[MediaItem]:
    return list(open_source(str(root)))


TREE = {
    "b.png": b"b",
    "a b.png": b"ab",
    "a/z.png": b"z",
    "a/z.txt": b"a zebra",
    "a/metadata.jsonl": b'{"file_name": "./deep/q.jpg", "text": "a queue"}\n',
    "a/deep/q.jpg": b"q",
    "a.png": b"a",
    "clip.mp4": b"clip",
    "clip.txt": b"it moves",
    "walk.frames/10.png": b"ten",
    "walk.frames/9.png": b"nine",
    "walk.frames/notes.txt": b"no frame",
    "empty.frames/notes.txt": b"no frame either",
    "notes.pdf": b"",
}
LISTED = [
    MediaItem("a b", "a b.png"),
    MediaItem("a", "a.png"),
    MediaItem("a/deep/q", "a/deep/q.jpg", "a queue"),
    MediaItem("a/z", "a/z.png", "a zebra"),
    MediaItem("b", "b.png"),
    MediaItem("clip", "clip.mp4", "it moves", "video"),
    MediaItem("walk", "walk.frames", None, "video"),
]


def test_a_tree_on_disk(tmp_path: Path) -> None:
    assert listed(fill(tmp_path, TREE)) == LISTED


def test_a_tree_on_a_remote_file_system(remote: Path) -> None:
    assert listed(fill(remote, TREE)) == LISTED


@pytest.mark.parametrize("location", ["disk", "memory"])
def test_content_of_items(location: str, tmp_path: Path, remote: Path) -> None:
    source = open_source(str(fill(tmp_path if location == "disk" else remote, TREE)))
    for uri in ("a/z.png", "clip.mp4"):
        with source.open(uri) as file:
            assert (file.seekable(), file.read(), file.seek(1), file.read()) == (True, TREE[uri], 1, TREE[uri][1:])
        assert source.sha256(uri) == hashlib.sha256(TREE[uri]).digest()
    assert source.frames("walk.frames") == ["walk.frames/9.png", "walk.frames/10.png"]
    assert source.sha256("walk.frames") == hashlib.sha256(b"nineten").digest()


def test_frames_as_a_video(tmp_path: Path) -> None:
    """Frame 10 comes after frame 9."""
    files = {f"walk.frames/{n}.png": encoded(picture(n), "PNG") for n in range(1, 11)}
    source = open_source(fill(tmp_path, files))
    with source.video("walk.frames", extra_json='{"fps":5.0}') as video:
        assert (video.info.frame_count, video.info.fps, video.info.duration_s) == (10, 5.0, 2.0)
        (last,) = video.frames_at([1.9])
    assert last.tobytes() == picture(10).tobytes()


def reason_of(source: FolderSource, uri: str) -> str:
    with pytest.raises(RefusedInput) as refused:
        source.open(uri).close()
    assert refused.value.detail
    return refused.value.reason


def test_refusals_have_a_reason(tmp_path: Path) -> None:
    """Opening a pipe would wait for its writer."""
    fill(tmp_path, {"empty.png": b"", "folder.png/a": b""})
    (tmp_path / "link.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    source = FolderSource(tmp_path)
    names = ["empty.png", "link.png", "folder.png", "pipe.png", "nosuchstore://host/a.png"]
    assert [reason_of(source, name) for name in names] == ["empty", "missing", *["unreadable"] * 3]
    with pytest.raises(RefusedInput, match="missing"):
        source.frames("gone.frames")


def test_remote_refusals_have_a_reason(remote: Path) -> None:
    source = FolderSource(fill(remote, {"empty.png": b"", "empty.mp4": b""}))
    assert [reason_of(source, name) for name in ("empty.png", "empty.mp4", "gone.png", "gone.mp4")] == [
        "empty",
        "empty",
        "missing",
        "missing",
    ]


def test_threads_that_read_one_remote_file_do_not_share_a_position(remote: Path) -> None:
    content = bytes(range(256)) * 400
    source = FolderSource(fill(remote, {"a.png": content, "a.mp4": content}))

    def read(number: int) -> bytes:
        with source.open("a.png" if number % 2 else "a.mp4") as file:
            return b"".join(iter(lambda: file.read(1000), b""))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(64))) == {content}


def test_an_unreadable_folder_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"a.png": b"", "sub/b.png": b"", "z.png": b""})
    scandir = os.scandir

    def denied(path: Path) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    items = listed(tmp_path)
    assert [(item.uri, item.refusal and item.refusal[0]) for item in items] == [
        ("a.png", None),
        ("sub/", "unreadable"),
        ("z.png", None),
    ]
    monkeypatch.setattr(os, "scandir", lambda path: denied(Path("sub")))
    with pytest.raises(UsageError, match="Permission denied"):
        list(FolderSource(tmp_path))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.mp4"], ["a", "a.mp4"]),
        (["a.mov", "a.mp4"], ["a.mov", "a.mp4"]),
        (["a.mp4", "a.mp4.jpg"], ["a", "a.mp4.jpg"]),
        (["walk.frames", "walk.png"], ["walk.frames", "walk"]),
    ],
)
def test_an_image_gets_the_short_key_before_a_video_of_its_name(names: list[str], expected: list[str]) -> None:
    """A thumbnail is often named like its video; keys of images do not depend on the videos beside them."""
    assert unique_keys(names) == expected


STEMS = st.sampled_from(["a", "a.png", "a.mp4", "a.frames", "b"])
SUFFIXES = st.sampled_from([".png", ".jpg", ".mp4", ".webm", ".frames"])


@given(st.sets(st.builds("{}{}".format, STEMS, SUFFIXES)))
def test_no_two_keys_of_a_folder_are_equal(names: set[str]) -> None:
    assert len(set(unique_keys(sorted(names)))) == len(names)


PARTS = st.sampled_from(["a", "b", "a.b", "a b", "B", "a-"])


@given(paths=st.sets(st.lists(PARTS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12))
def test_items_are_sorted_by_whole_paths(paths: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also if a folder's name is a prefix of a file's: `a b.png` comes before `a.png`, and `a.png` before `a/b.png`."""
    root = tmp_path_factory.mktemp("tree")
    fill(root, {f"{path}.png": b"" for path in paths})
    assert [item.uri for item in listed(root)] == sorted(f"{path}.png" for path in paths)


def test_a_deep_tree_is_listed_without_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    """1200 nested folders, more than the recursion limit allows."""
    monkeypatch.setattr(FolderWalk, "names", lambda walk, prefix: ["d/"] if len(prefix) < 2400 else ["a.png"])
    (item,) = FolderSource(Path())
    assert item.key == "d/" * 1200 + "a"


def test_listing_holds_one_folder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 folders of 1000 images: the first items need two folders, and few names are in memory."""
    scanned: list[str] = []

    class Entry:
        def __init__(self, name: str, is_folder: bool):
            self.name, self._is_folder = name, is_folder

        def is_dir(self) -> bool:
            return self._is_folder

        def is_symlink(self) -> bool:
            return False

    class Entries(list):
        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def scandir(path: Path) -> Entries:
        scanned.append(Path(path).name)
        if Path(path) == tmp_path:
            return Entries(Entry(f"{n:06d}", True) for n in range(200))
        return Entries(Entry(f"{n:06d}.jpg", False) for n in range(1000))

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(list(islice(FolderSource(tmp_path), 1500))) == 1500
    assert len(scanned) == 3
    tracemalloc.start()
    count = sum(1 for _ in islice(FolderSource(tmp_path), 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 2e6, "20 000 items are 10 MB and more"


def test_captions_of_a_large_metadata_file_are_not_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "z.png").touch()
    with (tmp_path / "metadata.jsonl").open("w") as file:
        for number in range(6_000):
            file.write(json.dumps({"file_name": f"{number}.png", "text": "long " * 100}) + "\n")
        file.write('{"file_name": "z.png", "text": "the last"}\n')
    tracemalloc.start()
    items = listed(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.text for item in items] == [None, "the last"]
    assert peak < 1.5e6, "the file has 3 MB"


@pytest.mark.parametrize("location", ["disk", "memory"])
def test_captions_of_planned_items_are_not_opened(
    location: str, tmp_path: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a round trip in an object store; metadata files are read for the first new item."""
    source = open_source(str(fill(tmp_path if location == "disk" else remote, TREE)))
    opened: list[str] = []

    def recorded(path: Path, *arguments: object, **options: object) -> object:
        opened.append(path.name)
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(source_folder, "open_file", recorded)
    monkeypatch.setattr(list_files, "open_file", recorded)
    assert list(source.items(is_planned=lambda item: True)) == []
    assert opened == []
    new = [item for item in LISTED if item.key in ("clip", "walk")]
    assert list(source.items(is_planned=lambda item: item.key not in ("clip", "walk"))) == new
    assert sorted(opened) == ["clip.txt", "metadata.jsonl"]


def test_items_with_planned_keys_are_left_out_before_they_are_built(tmp_path: Path) -> None:
    """Only one of each folder is asked for, which is how a stop is noticed; captions and reports are as before."""
    fill(tmp_path, {**TREE, "lost.txt": b"nothing beside it"})
    keys = KnownKeys(["a b", "b", "walk", "a/z"])
    asked: list[str] = []
    source = FolderSource(tmp_path, planned_keys=keys)
    items = list(source.items(lambda item: asked.append(item.key) or keys.has(item.key)))
    assert items == [item for item in LISTED if not keys.has(item.key)]
    assert len({"a b", "b", "walk"} & set(asked)) == 1
    every, known = FolderSource(tmp_path), FolderSource(tmp_path, planned_keys=KnownKeys(item.key for item in LISTED))
    assert (len(list(every)), list(known.items(lambda item: True))) == (len(LISTED), [])
    assert known.report.skipped.keys() == every.report.skipped.keys() != set()


def test_an_empty_source_is_an_error_unless_all_its_items_are_planned(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images or videos found"):
        list(FolderSource(tmp_path).items(is_planned=lambda item: True))
    fill(tmp_path, {"a.png": b""})
    assert list(FolderSource(tmp_path).items(is_planned=lambda item: True)) == []


@pytest.mark.parametrize("location", ["disk", "memory"])
def test_metadata_in_a_folder_beside_the_images(location: str, tmp_path: Path, remote: Path) -> None:
    """Also in one that is listed after them, with names relative to either folder."""
    rows = [{"file_name": "../images/deep/a.png", "text": "A"}, {"file_name": "images/b.png", "text": "B"}]
    metadata = "".join(json.dumps(row) + "\n" for row in [*rows, {"file_name": "c.png", "text": "C"}]).encode()
    names = ("images/b.png", "images/deep/a.png", "c.png", "labels/c.png")
    root = fill(tmp_path if location == "disk" else remote, {name: b"" for name in names})
    source = open_source(str(fill(root, {"labels/metadata.jsonl": metadata})))
    assert {item.uri: item.text for item in source} == dict(zip(names, ("B", "A", None, "C")))
    assert not source.report.unused_captions.count


def test_names_in_metadata_are_relative_to_its_own_folder_first(tmp_path: Path) -> None:
    fill(tmp_path, {"cats/a.png": b"", "train/cats/a.png": b""})
    fill(tmp_path, {"train/metadata.jsonl": b'{"file_name": "cats/a.png", "text": "a cat"}\n'})
    assert {item.uri: item.text for item in listed(tmp_path)} == {"cats/a.png": None, "train/cats/a.png": "a cat"}


def test_metadata_as_csv_and_parquet(tmp_path: Path) -> None:
    fill(tmp_path, {"csv/a.png": b"", "csv/metadata.csv": b"file_name,label,text\na.png,3,a cat\n", "table/b.png": b""})
    pq.write_table(pa.table({"file_name": ["b.png"], "text": ["a dog"]}), tmp_path / "table/metadata.parquet")
    assert [(item.uri, item.text) for item in listed(tmp_path)] == [("csv/a.png", "a cat"), ("table/b.png", "a dog")]
    pq.write_table(pa.table({"file_name": ["b.png"]}), tmp_path / "table/metadata.parquet")
    assert [item.text for item in listed(tmp_path)] == ["a cat", None]
    pq.write_table(pa.table({"text": ["a dog"]}), tmp_path / "table/metadata.parquet")
    with pytest.raises(UsageError, match=r"metadata.parquet: row 1: expected `file_name` and a caption"):
        listed(tmp_path)
