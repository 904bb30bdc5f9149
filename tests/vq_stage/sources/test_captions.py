"""Metadata files: spellings of their fields, the paths that their file names mean, and which rows no file has."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.errors import UsageError
from vq_stage.sources.captions import Captions, possible_paths
from vq_stage.sources.media_source import MediaItem

NFD = unicodedata.normalize("NFD", "é.png")


@pytest.fixture
def captions() -> Iterator[Captions]:
    with closing(Captions()) as opened:
        yield opened


def read(captions: Captions, folder: Path, content: str | bytes, name: str = "metadata.jsonl") -> Captions:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    captions.read(folder / name, "", folder)
    return captions


def said(captions: Captions, uri: str) -> tuple[str | None, str | None] | None:
    item = captions.add_to(MediaItem("key", uri))
    return item and (item.text, item.extra_json)


def test_spellings_and_absent_values(captions: Captions, tmp_path: Path) -> None:
    rows = [
        '{"file_name": "0.png", "text": NaN, "caption": "zero"}',
        "",
        '{"FileName": "1.png", "Caption": 17}',
        '{"image": "2.png", "text": null}',
        '{"path": "3.png", "captions": ["one", "two"]}',
        '{"file_name": "4.png", "text": ""}',
        '{"file_name": "5.png", "label": 3}',
    ]
    read(captions, tmp_path, "\ufeff" + "\r\n".join(rows))
    assert [said(captions, f"{n}.png") for n in range(6)] == [
        ("zero", None),
        ("17", None),
        None,
        ("one", '{"texts":["one","two"]}'),
        None,
        None,
    ]


def test_all_rows_of_a_file_count(captions: Captions, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"file_name": "a.png", "text": "x"}, {"file_name": "./a.png", "text": "y"}]
    more = {"file_name": "a.png", "conversations": turns}
    read(captions, tmp_path, "".join(json.dumps(row) + "\n" for row in [*rows, more]))
    read(captions, tmp_path, "file_name,text\na.png,z\n", "captions.csv")
    text, extra = said(captions, "a.png") or ("", "")
    assert text == "x"
    assert json.loads(extra or "") == {"texts": ["x", "y", "z"], "conversations": turns, "question": "q", "answer": "a"}


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("a.png", "", ["a.png"]),
        ("./x/../a.png", "train/", ["train/a.png"]),
        ("sub\\a.png", "", ["sub/a.png"]),
        ("train/a.png", "train/", ["train/train/a.png", "train/a.png"]),
        ("data/train/a.png", "train/", ["train/data/train/a.png", "train/a.png"]),
        ("/home/data/train/a.png", "train/", ["/home/data/train/a.png", "train/a.png"]),
        ("test/a.png", "train/", ["train/test/a.png"]),
        (NFD, "", ["é.png"]),
    ],
)
def test_paths_that_a_name_may_mean(name: str, folder: str, expected: list[str]) -> None:
    assert list(possible_paths(name, folder, Path("/home/data"))) == expected


def test_the_exact_path_comes_first(captions: Captions, tmp_path: Path) -> None:
    root = tmp_path / "train"
    root.mkdir()
    rows = [{"file_name": "train/a.png", "text": "above"}, {"file_name": "a.png", "text": "exact"}]
    read(captions, root, "".join(json.dumps(row) + "\n" for row in [*rows, {"file_name": "train/b.png", "text": "b"}]))
    assert said(captions, "a.png") == ("exact", None)
    assert said(captions, "b.png") == ("b", None)


def test_names_in_either_unicode_form(captions: Captions, tmp_path: Path) -> None:
    read(captions, tmp_path, json.dumps({"file_name": "é.png", "text": "coffee"}))
    assert said(captions, NFD) == ("coffee", None)


def test_unused_rows(captions: Captions, tmp_path: Path) -> None:
    assert list(captions.unused()) == []
    read(captions, tmp_path, "".join(f'{{"file_name": "{n}.png", "text": "x"}}\n' for n in range(4)))
    said(captions, "1.png")
    assert list(captions.unused()) == ["0.png", "2.png", "3.png"]


def test_long_fields_of_csv(captions: Captions, tmp_path: Path) -> None:
    read(captions, tmp_path, f'file_name,text\n"a.png","{"x" * 300_000}"\n', "metadata.csv")
    assert said(captions, "a.png") == ("x" * 300_000, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png"}\n{nonsense', "line 2: not JSON"),
        ("metadata.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("metadata.jsonl", b'{"text": "a"}', "line 1: expected `file_name`"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": true}', "line 1: `text`: expected a string"),
        ("metadata.csv", b"file,text\n\xff,x\n", "expected UTF-8"),
        ("metadata.csv", b"text\nx\n", "line 2: expected `file_name`"),
        ("metadata.parquet", b"PAR1 but no more", "not Parquet"),
    ],
)
def test_errors_name_the_file_and_the_line(
    name: str, content: bytes, message: str, captions: Captions, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{name}: {message}"):
        read(captions, tmp_path, content, name)
