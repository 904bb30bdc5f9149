"""Lists: conversations, videos, standard input, and laziness."""

from __future__ import annotations

import io
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UsageError
from shared.storage.paths import as_path
from vq_stage.sources import lists as source_lists
from vq_stage.sources.lists import entry_item
from vq_stage.sources.media_source import MediaItem, as_extra_json
from vq_stage.sources.open_source import open_source

TURNS = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "user", "value": "Of what colour?"},
    {"from": "assistant", "value": "Grey."},
]
SAID = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Of what colour?"},
    {"from": "gpt", "value": "Grey."},
]


def bad(entry: object) -> str:
    """Return the detail with which an entry is refused."""
    refusal = entry_item(3, entry).refusal
    assert refusal is not None
    assert refusal[0] == "bad_entry"
    assert refusal[1].startswith("entry 3: ")
    return refusal[1]


def test_every_turn_of_a_conversation_is_kept() -> None:
    item = entry_item(1, {"id": 7, "image": "coco/7.jpg", "conversations": TURNS})
    extra = {"conversations": SAID, "question": "What is it?", "answer": "A cat."}
    assert item == MediaItem("7", "coco/7.jpg", None, "image", None, as_extra_json(extra))


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("hello", "expected a list"),
        ([], "expected a list"),
        ([{"from": "human", "value": "Who?"}], "in turn, got human"),
        ([{"from": "gpt", "value": "Me."}], "in turn, got gpt"),
        ([{"from": "robot", "value": "Beep."}], "turn 1"),
        ([TURNS[0], {"from": "gpt", "value": 7}], "turn 2"),
        ([TURNS[0], "A cat."], "turn 2"),
    ],
)
def test_malformed_conversations_are_refused(turns: object, message: str) -> None:
    assert message in bad({"id": "k", "image": "a.png", "conversations": turns})
    assert entry_item(3, {"id": "k", "image": "a.png", "conversations": turns}).key == "k"


def test_an_id_is_a_key_of_conversations_only() -> None:
    """Entries without conversations do not use `id`."""
    assert entry_item(1, {"id": "k", "image": "a.png"}).key == "a"


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"image": "a.png"}, "image"),
        ({"image": "a.gif"}, "image"),
        ({"image": "a.mp4"}, "video"),
        ({"video": "a.mp4"}, "video"),
        ({"video": "a.bin"}, "video"),
        ({"video": "a.frames"}, "video"),
        ({"image": None, "video": "a.webm"}, "video"),
        ({"image": "https://host/a.mp4?token=a.png"}, "video"),
    ],
)
def test_kind_of_an_entry(entry: object, kind: str) -> None:
    assert (entry_item(1, entry).kind, entry_item(1, entry).refusal) == (kind, None)


def test_rate_of_a_folder_of_frames() -> None:
    assert entry_item(1, {"video": "a.frames", "fps": 12.5}).extra_json == '{"fps":12.5}'
    for fps in (0, -1, "8", True, float("inf"), float("nan")):
        assert "`fps`" in bad({"video": "a.frames", "fps": fps})


def test_several_media_in_an_entry_are_refused_with_advice() -> None:
    assert "a list of 2; write one entry for each" in bad({"image": ["a.png", "b.png"]})
    assert "got both" in bad({"image": "a.png", "video": "b.mp4"})


def test_urls_become_keys_without_scheme_and_query() -> None:
    assert entry_item(1, {"image": "s3://bucket/a/b.png"}).key == "bucket/a/b"
    assert entry_item(1, {"image": "https://host/b.png?token=1/2.3"}).key == "host/b"


def test_relative_and_absolute_paths_of_a_remote_list(tmp_path: Path) -> None:
    (tmp_path / "local.png").write_bytes(b"local")
    as_path("memory://lists/sub/a.png").write_bytes(b"remote")
    uris = ["sub/a.png", "memory://lists/sub/a.png", str(tmp_path / "local.png")]
    as_path("memory://lists/list.json").write_bytes(json.dumps([{"image": uri} for uri in uris]).encode())
    source = open_source("memory://lists/list.json")
    assert [item.uri for item in source] == uris
    contents = []
    for uri in uris:
        with source.open(uri) as file:
            contents.append(file.read())
    assert contents == [b"remote", b"remote", b"local"]


def test_a_surrogate_in_a_conversation_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    turns = [TURNS[0], {"from": "gpt", "value": "\ud800"}]
    (tmp_path / "list.jsonl").write_text(json.dumps({"id": "k", "image": "a.png", "conversations": turns}))
    (item,) = open_source(tmp_path / "list.jsonl")
    assert item.refusal is not None
    assert item.refusal[0] == "bad_name"


def test_a_long_list_is_read_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text("".join(f'{{"image": "{n}.png"}}\n' for n in range(200_000)))
    opened: list[Any] = []
    open_list = source_lists.open_list
    monkeypatch.setattr(source_lists, "open_list", lambda path: opened.append(open_list(path)) or opened[0])
    items = iter(open_source(path))
    assert [item.key for item in islice(items, 100)] == [str(n) for n in range(100)]
    assert opened[0].tell() < 100_000, "of 4 MB"


def test_deeply_nested_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="line 1: not JSON"):
        list(open_source(tmp_path / "list.jsonl"))


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[MediaItem]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return list(open_source("-"))


def test_paths_urls_and_entries_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["sub/two words.png", "", "s3://bucket/clip.mp4", '{"key": "k", "image": "c.png", "text": "ü"}', "last.png"]
    assert piped(monkeypatch, "\ufeff".encode() + "\r\n".join(lines).encode()) == [
        MediaItem("sub/two words", "sub/two words.png"),
        MediaItem("bucket/clip", "s3://bucket/clip.mp4", kind="video"),
        MediaItem("k", "c.png", "ü"),
        MediaItem("last", "last.png"),
    ]


def test_bad_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert piped(monkeypatch, b"") == []
    (item,) = piped(monkeypatch, b"caf\xe9.png\n")
    assert item.refusal is not None
    assert item.refusal[0] == "bad_name"
    with pytest.raises(UsageError, match="standard input: line 2: not JSON"):
        piped(monkeypatch, b"a.png\n{nonsense\n")


def test_paths_of_standard_input_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    with open_source("-").open("a.png") as file:
        assert file.read() == b"content"
