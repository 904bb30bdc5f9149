"""Items of folders and lists: keys, captions, order and refusals; and which kind of source a location is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from tests.support.small_folders import fill
from vq_stage.sources.media_source import MediaItem
from vq_stage.sources.open_source import expanded, open_source

BOM = b"\xef\xbb\xbf"


def touch(root: Path, *names: str) -> Path:
    """Create empty files: a source is listed without opening its images."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(location: Path | str) -> list[MediaItem]:
    return list(open_source(location))


def captions(root: Path | str) -> dict[str, str | None]:
    return {item.uri: item.text for item in listed(root)}


def keys(root: Path) -> dict[str, str]:
    return {item.uri: item.key for item in listed(root)}


def reasons(items: list[MediaItem]) -> list[str | None]:
    return [item.refusal[0] if item.refusal else None for item in items]


def write_list(path: Path, entries: list[object]) -> Path:
    text = json.dumps(entries) if path.suffix == ".json" else "\n".join(json.dumps(entry) for entry in entries)
    path.write_text(text, encoding="utf-8")
    return path


def test_captions_in_text_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.jpg", "sub/a.png", "notes.txt")
    (tmp_path / "a.txt").write_text(" a cat\n", encoding="utf-8")
    (tmp_path / "sub" / "a.txt").write_text("ein Kätzchen", encoding="utf-8")
    assert captions(tmp_path) == {"a.png": "a cat", "b.jpg": None, "sub/a.png": "ein Kätzchen"}


def test_metadata_jsonl_in_any_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png", "sub/c.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name":"a.png","text":"top"}\n\n', encoding="utf-8")
    lines = '{"file_name":"b.png","text":"漢字"}\n{"file_name":"gone.png","text":"passed over"}\n'
    (tmp_path / "sub/metadata.jsonl").write_text(lines, encoding="utf-8")
    assert captions(tmp_path) == {"a.png": "top", "sub/b.png": "漢字", "sub/c.png": None}


def test_captions_csv(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b c.png")
    (tmp_path / "captions.csv").write_text(
        'file_name,text\na.png,"one, two\nlines"\nb c.png,plain\n', encoding="utf-8", newline=""
    )
    assert captions(tmp_path) == {"a.png": "one, two\nlines", "b c.png": "plain"}


@pytest.mark.parametrize(
    ("name", "content"),
    [("captions.csv", "file_name,text\na.png\n"), ("metadata.jsonl", '{"file_name":"a.png","text":null}\n')],
)
def test_an_empty_caption_field_is_not_the_word_none(name: str, content: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert captions(tmp_path)["a.png"] in (None, "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", b'{"title":"a.png","caption":"no file"}\n'),
        ("metadata.jsonl", b'{"file_name":"a.png",\n'),
        ("metadata.jsonl", b"[1, 2]\n"),
        ("metadata.jsonl", b'{"file_name":"a.png","text":"\xe9"}\n'),
        ("captions.csv", b"name,text\na.png,x\n"),
        ("captions.csv", b"file_name,text\na.png,caf\xe9\n"),
    ],
)
def test_bad_caption_files_stop_the_run(name: str, content: bytes, tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name):
        listed(tmp_path)


def test_byte_order_marks_are_not_part_of_captions(tmp_path: Path) -> None:
    """Windows editors and Excel write them at the start of UTF-8 files."""
    touch(tmp_path, "side/a.png", "csv/b.png", "lines/c.png")
    (tmp_path / "side" / "a.txt").write_bytes(BOM + b"a cat")
    (tmp_path / "csv" / "captions.csv").write_bytes(BOM + b"file_name,text\nb.png,a dog\n")
    (tmp_path / "lines" / "metadata.jsonl").write_bytes(BOM + b'{"file_name":"c.png","text":"a bird"}\n')
    found = {uri: text for folder in ("side", "csv", "lines") for uri, text in captions(tmp_path / folder).items()}
    assert found == {"a.png": "a cat", "b.png": "a dog", "c.png": "a bird"}


def test_byte_order_mark_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(BOM + b'[{"image":"a.png"}]')
    assert [item.uri for item in listed(path)] == ["a.png"]


def test_only_the_item_whose_caption_is_not_utf8_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert reasons(listed(tmp_path)) == ["caption_unreadable", None]


def test_only_media_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.PNG", "b.JpEg", "c.pdf", "d", "e.txt", "png", ".png", "sub.png/f.webp")
    assert set(keys(tmp_path)) == {"a.PNG", "b.JpEg", "sub.png/f.webp"}


def test_keys_of_nested_and_odd_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/a.png", "sub/deeper/a.png", "two words.png", "漢字 ü😀.png", "v1.2.final.png")
    assert keys(tmp_path) == {
        "a.png": "a",
        "sub/a.png": "sub/a",
        "sub/deeper/a.png": "sub/deeper/a",
        "two words.png": "two words",
        "漢字 ü😀.png": "漢字 ü😀",
        "v1.2.final.png": "v1.2.final",
    }


def test_one_stem_with_two_suffixes_keeps_both(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg", "b.png")
    assert keys(tmp_path) == {"a.png": "a.png", "a.jpg": "a.jpg", "b.png": "b"}
    assert reasons(listed(tmp_path)) == [None, None, None]


@given(
    st.sets(st.builds("{}{}".format, st.sampled_from(["a", "a.png", "a.jpg", "b"]), st.sampled_from([".png", ".jpg"])))
)
def test_keys_of_a_folder_are_unique(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    """Names in a folder are unique, so the keys must be unique too."""
    root = touch(tmp_path_factory.mktemp("folder"), "z.png", *names)
    items = listed(root)
    assert reasons(items) == [None] * len(items)
    assert len({item.key for item in items}) == len(names | {"z.png"})


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = ["b.png", "B.png", "a/z.png", "a.png", "a b.png", "ä.png", "10.png", "9.png"]
    forward = listed(touch(tmp_path / "forward", *names))
    backward = listed(touch(tmp_path / "backward", *reversed(names)))
    assert forward == backward == sorted(forward, key=lambda item: item.uri)


def test_names_that_are_not_utf8_do_not_break_the_listing(tmp_path: Path) -> None:
    """Linux allows any bytes in a name; a key must be text that can be stored."""
    touch(tmp_path, "good.png")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).touch()
    items = listed(tmp_path)
    assert sorted(map(str, reasons(items))) == ["None", "bad_name"]
    assert all((item.key + item.uri).encode("utf-8") for item in items)


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_lists_with_name_or_key(name: str, tmp_path: Path) -> None:
    entries: list[object] = [
        {"name": "first", "image": "x/1.png", "text": "one"},
        {"key": "second", "image": "2.png"},
        {"image": "x/3.v2.png", "text": None},
        {"key": 4, "image": "4.png", "text": ""},
    ]
    source = open_source(write_list(tmp_path / name, entries))
    assert source.root == tmp_path
    assert [(item.key, item.uri, item.text) for item in source] == [
        ("first", "x/1.png", "one"),
        ("second", "2.png", None),
        ("x/3.v2", "x/3.v2.png", None),
        ("4", "4.png", None),
    ]
    assert reasons(list(source)) == [None] * 4


def test_captions_with_unusual_line_breaks(tmp_path: Path) -> None:
    """JSON allows U+2028 and U+0085 unescaped in strings: they do not end a line of a .jsonl file."""
    text = "one\u2028two\u0085three"
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"image": "a.png", "text": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [item.text for item in listed(path)] == [text]


def test_duplicate_keys_are_listed(tmp_path: Path) -> None:
    entries: list[object] = [{"key": "k", "image": "a.png"}, {"key": "k", "image": "b.png"}]
    items = listed(write_list(tmp_path / "list.json", entries))
    assert [(item.key, item.refusal) for item in items] == [("k", None), ("k", None)]


@pytest.mark.parametrize("entry", [7, None, [], {"image": 3}, {"image": "a.png", "text": True}])
def test_only_the_bad_entry_is_refused(entry: object, tmp_path: Path) -> None:
    items = listed(write_list(tmp_path / "list.json", [{"image": "good.png"}, entry, {"image": "also.png"}]))
    assert reasons(items) == [None, "bad_entry", None]
    assert items[1].refusal is not None
    assert "entry 2" in items[1].refusal[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", b'{"images":[],"annotations":[]}'),
        ("list.json", b"[{"),
        ("list.json", b""),
        ("list.json", b"[]"),
        ("list.jsonl", b'nonsense\n{"image":"a.png"}\n'),
        ("list.jsonl", b""),
        ("list.jsonl", b'{"image":"\xe9.png"}\n'),
        ("list.txt", b"a.png\n"),
    ],
)
def test_bad_lists_stop_the_run(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=name):
        listed(path)


def test_empty_folder_and_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        listed(touch(tmp_path / "folder", "notes.txt"))
    for name in ("nowhere", "nowhere.json", "nowhere.tar", "nowhere/{0..3}.tar", "memory://nowhere/list.jsonl"):
        with pytest.raises(UsageError, match="none of these"):
            open_source(tmp_path / name if "://" not in name else name)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("pipe:curl -s https://host/0.tar", "commands are not executed"),
        ("nosuchstore://bucket/folder", "nosuchstore"),
        ("{0..3.tar", "braces"),
        ("*.tar", "no file matches"),
        ("nowhere/**/*.tar", "no file matches"),
        ("", "SOURCE is empty"),
    ],
)
def test_bad_locations(location: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        open_source(location)
    assert location in str(error.value)


@pytest.mark.parametrize("name", ["00.tar.gz", "00.tgz", "00.tar.zst"])
def test_compressed_tars_are_refused_with_advice(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="decompress it first"):
        open_source(touch(tmp_path, name) / name)


def test_tars_and_tables_in_one_folder_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1 tars, 1 tables; choose one kind: .*/\*\.tar', .*/\*\.parquet'"):
        open_source(touch(tmp_path, "a.tar", "b.parquet"))


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    touch(tmp_path / "two words", "a.png")
    source = open_source((tmp_path / "two words").as_uri())
    assert (source.root, [item.uri for item in source]) == (tmp_path / "two words", ["a.png"])


def test_an_existing_name_with_braces_or_brackets_is_not_expanded(tmp_path: Path) -> None:
    name = "odd{0..1}[a].json"
    path = write_list(tmp_path / name, [{"image": "a.png"}])
    assert [item.uri for item in open_source(path)] == ["a.png"]


def test_a_source_is_opened_without_being_listed(tmp_path: Path) -> None:
    """Workers open a source only to read from it; errors in a list are raised on listing."""
    (tmp_path / "list.jsonl").write_text("nonsense")
    source = open_source(tmp_path / "list.jsonl")
    with pytest.raises(UsageError, match="line 1"):
        list(source)


def test_a_single_file_as_the_source(tmp_path: Path) -> None:
    touch(tmp_path, "cat.png", "cat.jpg", "dog.png", "walk.mp4")
    (tmp_path / "cat.txt").write_text("a cat")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "walk.mp4", "text": "it moves"}\n')
    assert listed(tmp_path / "cat.png") == [MediaItem("cat", "cat.png", "a cat")]
    assert listed(tmp_path / "walk.mp4") == [MediaItem("walk", "walk.mp4", "it moves", "video")]
    source = open_source(tmp_path / "cat.png")
    list(source)
    assert list(source.report.lines()) == [], "captions of files that were not chosen are not unused"


def test_globs_of_images_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "2023/a.png", "2024/a.png", "2024/sub/b.jpg", "2024/._a.png", "other/c.png", "2024/__MACOSX/a.png")
    (tmp_path / "2024" / "a.txt").write_text("a cat")
    found = {
        pattern: [(item.key, item.text) for item in listed(f"{tmp_path}/{pattern}")]
        for pattern in ("202?/*.png", "2024/*.png", "2024/**/*", "202*", "202{3,4}", "2024/{a.png,sub/b.jpg}")
    }
    assert found == {
        "202?/*.png": [("2023/a", None), ("2024/a", "a cat")],
        "2024/*.png": [("a", "a cat")],
        "2024/**/*": [("a", "a cat"), ("sub/b", None)],
        "202*": [("2023/a", None), ("2024/a", "a cat"), ("2024/sub/b", None)],
        "202{3,4}": [("2023/a", None), ("2024/a", "a cat"), ("2024/sub/b", None)],
        "2024/{a.png,sub/b.jpg}": [("a", "a cat"), ("sub/b", None)],
    }


@pytest.mark.parametrize("location", ["{0..99999999}.tar", "{a,b}" * 30, f"{{0..{'9' * 5000}}}"])
def test_braces_that_stand_for_too_many_names_are_refused(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vq_stage.sources.open_source.MAX_NAMES", 1_000)
    with pytest.raises(UsageError, match="braces: "):
        next(expanded(location))


def test_a_file_of_braces_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "2.png")
    items = listed(f"{tmp_path}/{{0..2}}.png")
    assert [(item.key, item.refusal and item.refusal[0]) for item in items] == [
        ("0", None),
        ("2", None),
        ("1", "missing"),
    ]


def test_paths_below_a_glob_stay_the_same_when_more_matches(tmp_path: Path) -> None:
    fill(tmp_path, "a/x.parquet")
    before = listed(f"{tmp_path}/*/*.parquet")
    fill(tmp_path, "b/x.parquet")
    assert listed(f"{tmp_path}/*/*.parquet")[: len(before)] == before


@pytest.mark.parametrize("name", ["pipe", "pipe.json", "pipe.tar", "pipe.png", "pipe.parquet"])
def test_special_files_are_refused_as_sources(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="a named pipe, expected a regular file"):
        open_source(tmp_path / name)
    with pytest.raises(UsageError, match="a device, expected a regular file"):
        open_source(tmp_path / "zero.json")


def test_suffixes_of_lists_and_shards_in_any_case(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "s.TAR")
    (tmp_path / "LIST.JSON").write_text('[{"image": "a.png"}]')
    assert [item.key for item in listed(tmp_path / "LIST.JSON")] == ["a"]
    assert len(listed(tmp_path / "s.TAR")) == 2
    with pytest.raises(UsageError, match="decompress it first"):
        open_source(touch(tmp_path, "S.TAR.GZ") / "S.TAR.GZ")


@pytest.mark.parametrize("name", ["a.heic", "b.pdf", "c.rmvb"])
def test_unsupported_files_are_refused_as_sources(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder or files"):
        open_source(touch(tmp_path, name) / name)


def test_patterns_over_all_folders_end_where_links_loop(tmp_path: Path) -> None:
    """Python's own glob follows links again and again: here to 2⁴⁰ paths."""
    touch(tmp_path, "own.png", "sub/a.png", "sub/b.jpg", "sub/deep/c.png", ".hidden/d.png")
    for name in ("loop1", "loop2", "sub/loop"):
        (tmp_path / name).symlink_to(tmp_path)
    found = {
        pattern: [item.uri for item in listed(f"{tmp_path}/{pattern}")]
        for pattern in ("**/*.png", "**", "**/deep/*", "s*/**/*.png", "**/[ab].*", "**/deep")
    }
    assert found == {
        "**/*.png": ["own.png", "sub/a.png", "sub/deep/c.png"],
        "**": ["own.png", "sub/a.png", "sub/b.jpg", "sub/deep/c.png"],
        "**/deep/*": ["sub/deep/c.png"],
        "s*/**/*.png": ["sub/a.png", "sub/deep/c.png"],
        "**/[ab].*": ["sub/a.png", "sub/b.jpg"],
        "**/deep": ["sub/deep/c.png"],
    }


def test_patterns_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "sub/b.png")
    monkeypatch.chdir(tmp_path)
    for pattern in ("**/*.png", "./**/*.png"):
        assert [item.key for item in listed(pattern)] == ["a", "sub/b"]
    assert [item.key for item in listed("*/*.png")] == ["sub/b"]


def test_a_linked_source_is_listed_like_its_target(tmp_path: Path) -> None:
    touch(tmp_path / "real", *[f"{n}/a.png" for n in range(30)])
    (tmp_path / "link").symlink_to("real")
    assert len(listed(tmp_path / "link")) == 30
