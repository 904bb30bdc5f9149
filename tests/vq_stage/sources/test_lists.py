"""Lists: fields and their spellings, several entries of one image, bad entries, standard input, and memory."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import tracemalloc
import unicodedata
from pathlib import Path

import pytest

from shared.errors import Interrupted, UsageError
from shared.storage import json_values
from shared.storage.json_values import JsonValue
from shared.storage.paths import as_path
from shared.storage.temporary_database import temporary_database
from vq_stage.sources import item_groups, lists
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


def entry_item(entry: object, key_field: str | None = None) -> MediaItem:
    return lists.entry_item(JsonValue(3, "line 3", entry), Path("/data"), key_field)[1]


def bad(entry: object) -> str:
    """Return the detail with which an entry is refused."""
    refusal = entry_item(entry).refusal
    assert refusal is not None
    assert refusal[0] == "bad_entry"
    assert refusal[1].startswith("line 3: ")
    return refusal[1]


def write_list(folder: Path, entries: list[object], name: str = "list.jsonl") -> Path:
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / name).write_text(lines if name.endswith("l") else json.dumps(entries, indent=1))
    return folder / name


def test_every_turn_of_a_conversation_is_kept() -> None:
    item = entry_item({"id": 7, "image": "coco/7.jpg", "conversations": TURNS})
    extra = {"conversations": SAID, "question": "What is it?", "answer": "A cat."}
    assert (item.key, item.uri, item.text) == ("7", "coco/7.jpg", None)
    assert item.extra_json == as_extra_json(extra)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ("hello", "expected a list"),
        ([{"from": "human", "value": "Who?"}], "an answer of gpt, got human"),
        ([{"from": "robot", "value": "Beep."}], "turn 1"),
        ([TURNS[0], "A cat."], "turn 2"),
    ],
)
def test_malformed_conversations_are_refused(turns: object, message: str) -> None:
    assert message in bad({"id": "k", "image": "a.png", "conversations": turns})
    assert entry_item({"id": "k", "image": "a.png", "conversations": turns}).key == "k"


def test_questions_with_an_answer_are_conversations() -> None:
    item = entry_item({"image": "a.png", "question": "Who?", "answer": "Me."})
    turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
    assert item.extra_json == as_extra_json({"conversations": turns, "question": "Who?", "answer": "Me."})


def test_the_image_of_messages_may_be_one_of_their_parts() -> None:
    parts = [{"type": "text", "text": "Who?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Me."}]
    assert entry_item({"messages": messages}).uri == "a.png"
    assert entry_item({"messages": messages, "images": ["b.png"]}).uri == "b.png"
    two = [{"role": "user", "content": parts * 2}, messages[1]]
    assert "one entry for each" in bad({"messages": two})
    parts[1]["image_url"] = {"url": "data:image/png;base64,AAAA"}
    assert "save it as a file" in bad({"messages": messages})


def test_an_id_is_a_key_of_conversations_only() -> None:
    """Entries without conversations do not use `id`, unless it is asked for."""
    assert entry_item({"id": "k", "image": "a.png"}).key == "a"
    assert entry_item({"id": "k", "image": "a.png"}, "id").key == "k"
    assert entry_item({"ID": 7, "image": "a.png"}, "id").key == "7"
    assert entry_item({"key": "other", "image": "a.png"}, "id").key == "a"


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"text": "a"}, ["a"]),
        ({"Caption": "a"}, ["a"]),
        ({"TEXT": "a", "prompt": "b"}, ["a"]),
        ({"text": None, "caption": "a"}, ["a"]),
        ({"text": float("nan"), "caption": " "}, []),
        ({"captions": ["a", "", None, "b", "a"]}, ["a", "b"]),
        ({"captions": [{"caption": "a"}, {"caption": "b"}]}, ["a", "b"]),
        ({"caption_0": "a", "caption_1": "b"}, ["a", "b"]),
        ({"sentences": [{"raw": "a", "sentid": 3}]}, ["a"]),
        ({"text": 17}, ["17"]),
        ({"title": "a"}, []),
    ],
)
def test_captions(fields: dict[str, object], texts: list[str]) -> None:
    item = entry_item({"image": "a.png", **fields})
    assert item.text == (texts[0] if texts else None)
    assert item.extra_json == (as_extra_json({"texts": texts}) if len(texts) > 1 else None)
    assert item.refusal is None


def test_a_caption_of_another_type_is_refused() -> None:
    assert "`text`: expected a string" in bad({"image": "a.png", "text": True})


def test_null_means_absent_in_every_field() -> None:
    names = ("key", "name", "id", "text", "caption", "conversations", "messages", "fps", "video", "question")
    item = entry_item({"image": "a.png", **dict.fromkeys(names)})
    assert item == entry_item({"image": "a.png"})
    with pytest.raises(lists.NoMedium):
        entry_item({"image": None, "text": "a"})


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
        ({"file_name": "a.mp4"}, "video"),
        ({"Image_Path": "a.png", "url": "https://origin/b.mp4"}, "image"),
        ({"image": ["a.png"]}, "image"),
        ({"images": [{"path": "a.png", "bytes": None}]}, "image"),
        ("a.mp4", "video"),
    ],
)
def test_kind_of_an_entry(entry: object, kind: str) -> None:
    assert (entry_item(entry).kind, entry_item(entry).refusal) == (kind, None)


def test_rate_of_a_folder_of_frames() -> None:
    assert entry_item({"video": "a.frames", "fps": 12.5}).extra_json == '{"fps":12.5}'
    for fps in (0, -1, "8", True, float("inf"), 10**30):
        assert "`fps`" in bad({"video": "a.frames", "fps": fps})


def test_several_media_in_an_entry_are_refused_with_advice() -> None:
    assert "got 2; write one entry for each" in bad({"image": ["a.png", "b.png"]})
    assert "got both" in bad({"image": "a.png", "video": "b.mp4"})


@pytest.mark.parametrize("entry", [7, None, ["a.png"], {"image": 7}, {"image": "a.png", "key": ["k"]}])
def test_malformed_entries_are_refused(entry: object) -> None:
    assert bad(entry)


@pytest.mark.parametrize(
    "uri", ["sub/é.png", "./sub/é.png", "sub\\é.png", "/data/sub/é.png", "file:///data/sub/%C3%A9.png"]
)
def test_one_key_for_every_way_to_write_a_path(uri: str) -> None:
    item = entry_item({"image": uri})
    assert (item.key, item.uri) == ("sub/é", uri)
    assert entry_item({"image": unicodedata.normalize("NFD", uri)}).key == "sub/é"


def test_files_are_found_by_other_forms_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / unicodedata.normalize("NFD", "é.png")).write_bytes(b"content")
    source = open_source(write_list(tmp_path, ["sub/é.png", {"image": "sub\\é.png", "text": "a"}]))
    (item,) = source
    assert item.text == "a"
    for uri in ("sub/é.png", "sub\\é.png"):
        with source.open(uri) as file:
            assert file.read() == b"content"


def test_an_image_root(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"content")
    path = write_list(tmp_path, [{"image": "a.png"}])
    source = open_source(path, image_root=str(tmp_path / "images"))
    (item,) = source
    assert item.key == "a"
    with source.open(item.uri) as file:
        assert file.read() == b"content"
    with pytest.raises(UsageError, match=r"--image-root .*expected a list"):
        open_source(tmp_path / "images", image_root=str(tmp_path))
    with pytest.raises(UsageError, match="--key id: expected a list or tables"):
        open_source(tmp_path / "images", key="id")


@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "LIST.JSON"])
def test_entries_of_one_image_are_one_item_wherever_they_are(name: str, tmp_path: Path) -> None:
    def entry(image: str, question: str) -> dict[str, object]:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": question.upper()}]
        return {"id": f"{image}-{question}", "image": f"{image}.png", "conversations": turns}

    images = [str(number) for number in range(300)]
    entries = [entry(image, question) for question in ("a", "b", "c") for image in images]
    items = list(open_source(write_list(tmp_path, [*entries, {"image": "./7.png", "text": "seven"}], name)))
    assert [item.key for item in items] == [f"{image}-a" for image in images]
    assert [item.text for item in items if item.text] == ["seven"]
    extra = json.loads(items[7].extra_json or "")
    assert (extra["question"], extra["answer"]) == ("a", "A")
    questions = [turns[0]["value"] for turns in (extra["conversations"], *extra["other_conversations"])]
    assert questions == ["a", "b", "c"]


def test_several_captions_of_one_image(tmp_path: Path) -> None:
    entries = [{"image": f"{n}.png", "text": f"{text} of {n}"} for text in "abc" for n in range(2)]
    items = list(open_source(write_list(tmp_path, [*entries, *entries])))
    assert [(item.key, item.text) for item in items] == [("0", "a of 0"), ("1", "a of 1")]
    assert json.loads(items[1].extra_json or "") == {"texts": ["a of 1", "b of 1", "c of 1"]}


def test_entries_with_different_keys_or_rates_are_different_items(tmp_path: Path) -> None:
    entries = [{"key": key, "video": "a.frames", "fps": fps} for key in "kl" for fps in (4, 8, 8)]
    items = list(open_source(write_list(tmp_path, [*entries, {"video": "a.frames"}])))
    assert [(item.key, item.extra_json) for item in items] == [
        ("k", '{"fps":4}'),
        ("k", '{"fps":8}'),
        ("l", '{"fps":4}'),
        ("l", '{"fps":8}'),
        ("a", None),
    ]


def test_a_key_of_several_images_repeats(tmp_path: Path) -> None:
    entries = [{"image": "a.jpg"}, {"image": "a.png"}, {"image": "a.png"}, {"image": "b.png"}]
    items = list(open_source(write_list(tmp_path, [*entries, {"image": "c.png", "name": "b"}])))
    assert [(item.key, item.key_repeats, item.other_keys[-1]) for item in items] == [
        ("a", True, "a.jpg"),
        ("a", True, "a.png"),
        ("b", True, "b.png"),
        ("b", True, "c.png"),
    ]


def test_entries_without_an_image_are_counted(tmp_path: Path) -> None:
    entries: list[object] = [{"image": "a.png"}, *[{"id": n, "conversations": TURNS} for n in range(50)]]
    source = open_source(write_list(tmp_path, entries))
    assert [item.key for item in source] == ["a"]
    tally = source.report.skipped["entries without an image or a video"]
    assert (tally.count, tally.first) == (50, "line 2")
    with pytest.raises(UsageError, match="no images or videos found; 50 entries without"):
        list(open_source(write_list(tmp_path, entries[1:])))


def test_one_bad_entry_does_not_spoil_the_others_of_its_image(tmp_path: Path) -> None:
    entries = [{"image": "a.png", "text": text} for text in ("x", "\ud800", True, "y")]
    items = list(open_source(write_list(tmp_path, entries)))
    assert [(item.text, item.refusal and item.refusal[0]) for item in items] == [
        ("x", None),
        (None, "bad_name"),
        (None, "bad_entry"),
    ]
    assert json.loads(items[0].extra_json or "") == {"texts": ["x", "y"]}


def test_a_bad_line_is_refused_alone(tmp_path: Path) -> None:
    nested, digits = b"[" * 100_000, b'{"image": "a.png", "fps": ' + b"7" * 5000 + b"}"
    lines = [b'\xef\xbb\xbf{"image": "a.png"}', b"", b"{nonsense", nested, digits, b"\xff", b'{"image": "b.png"}']
    (tmp_path / "list.jsonl").write_bytes(b"\r\n".join(lines))
    items = list(open_source(tmp_path / "list.jsonl"))
    found = [item.refusal[1] if item.refusal else item.key for item in items]
    assert found[0] == "a"
    assert [text.partition(": not JSON: ")[0] for text in found[1:5]] == [f"line {n}" for n in (3, 4, 5, 6)]
    assert found[5] == "b"


def test_a_line_that_is_too_long_is_refused_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_VALUE_BYTES", 100)
    lines = ['{"image": "a.png"}', json.dumps({"image": "b.png", "text": "x" * 1000}), '{"image": "c.png"}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    items = list(open_source(tmp_path / "list.jsonl"))
    assert [item.refusal[1] if item.refusal else item.key for item in items] == [
        "a",
        "line 2: longer than 100 bytes",
        "c",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "line 1: not JSON: nested too deeply"),
        ('[{"image": "a.png"},\n' + "[" * 100_000, "line 2: not JSON: nested too deeply"),
        ('[{"image": "a.png"},\n\n {"image": }]', "line 3: not JSON"),
        ('[{"image": "a.png"}', "line 1: the array has no end"),
        ('[{"image": "a.png"}\n{"image": "b.png"}]', "line 2: expected `,`"),
        ("7" * 5000, "line 1: not JSON: an integer of 5000 digits"),
        ("{nonsense", "line 1: not JSON"),
        ("\xff", "line 1: not JSON"),
        ('[\n"\xff"]', "line 1: expected UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_files_that_are_no_lists_are_errors(content: str, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=f"{name}: {message}"):
        list(open_source(tmp_path / name))


def test_urls_become_keys_without_scheme_and_query() -> None:
    assert entry_item({"image": "s3://bucket/a/b.png"}).key == "bucket/a/b"
    assert entry_item({"image": "https://host/b.png?token=1/2.3"}).key == "host/b"


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


def test_a_long_list_is_not_in_memory(tmp_path: Path) -> None:
    for name, (start, end) in {"list.jsonl": ("", ""), "list.json": ("[", "null]")}.items():
        path, comma = tmp_path / name, "," if start else ""
        lines = (f'{{"image": "{n % 2000}.png", "text": "{n}"}}{comma}\n' for n in range(6000))
        path.write_text(start + "".join(lines) + end)
        tracemalloc.start()
        count = sum(1 for item in open_source(path) if item.refusal is None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 2000
        assert peak < 1e6, "6000 items are 3 MB and more"


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[MediaItem]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    return list(open_source("-"))


def test_paths_urls_and_entries_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["sub/two words.png", "", "s3://bucket/clip.mp4", '{"key": "k", "image": "c.png", "text": "ü"}', "last.png"]
    items = piped(monkeypatch, "\ufeff".encode() + "\r\n".join(lines).encode())
    assert [(item.key, item.uri, item.kind, item.text) for item in items] == [
        ("sub/two words", "sub/two words.png", "image", None),
        ("bucket/clip", "s3://bucket/clip.mp4", "video", None),
        ("k", "c.png", "image", "ü"),
        ("last", "last.png", "image", None),
    ]


def test_paths_as_find_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [item.key for item in piped(monkeypatch, b"./a.png\n./sub/b.png\n")] == ["a", "sub/b"]


def test_bad_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert piped(monkeypatch, b"") == []
    (item,) = piped(monkeypatch, b"caf\xe9.png\n")
    assert item.refusal is not None
    assert item.refusal[0] == "bad_name"
    good, bad_line = piped(monkeypatch, b"a.png\n{nonsense\n")
    assert (good.refusal, bad_line.refusal and bad_line.refusal[0]) == (None, "bad_entry")
    assert "line 2: not JSON" in str(bad_line.refusal)


def test_paths_of_standard_input_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)
    with open_source("-").open("a.png") as file:
        assert file.read() == b"content"


def test_a_signal_stops_a_long_listing(tmp_path: Path) -> None:
    """Before the first item: all entries are read before they are grouped."""
    path = write_list(tmp_path, [{"image": f"{n}.png"} for n in range(2000)])
    asked: list[str] = []

    def stopping(item: MediaItem) -> bool:
        asked.append(item.key)
        if len(asked) == 3:
            raise Interrupted("stopped")
        return False

    with pytest.raises(Interrupted):
        next(open_source(path).items(stopping))
    assert asked == ["0", "256", "512"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small_database() -> sqlite3.Connection:
        database = temporary_database()
        database.execute("PRAGMA max_page_count = 4")
        return database

    monkeypatch.setattr(item_groups, "temporary_database", small_database)
    entries = [{"image": f"{number}.png", "text": "long" * 100} for number in range(100)]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    with pytest.raises(OSError, match=r"temporary file in .*full; set TMPDIR"):
        list(open_source(tmp_path / "list.json"))
