"""Small files that are read whole, and JSON in them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DatasetError, UsageError
from shared.storage.paths import as_path
from shared.storage.small_files import parse_json, parse_json_object, read_json_object, read_small_file


def test_reads_a_file_of_exactly_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b"12345")
    assert read_small_file(path, 5) == b"12345"
    with pytest.raises(UsageError, match=r"list\.json: larger than 4 bytes"):
        read_small_file(path, 4)


def test_reads_an_object() -> None:
    path = as_path("memory://small/list.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    assert read_small_file(path) == b"12345"
    with pytest.raises(UsageError, match="larger than 4 bytes"):
        read_small_file(path, 4)
    with pytest.raises(DatasetError, match=r"absent\.json: no such file"):
        read_small_file(path.with_name("absent.json"), error=DatasetError)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "link to a pipe", "link to a device"])
def test_refuses_what_is_not_a_regular_file(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind.endswith("pipe"):
        os.mkfifo(target)
    elif kind.endswith("device"):
        target = Path("/dev/zero")
    else:
        target.mkdir()
    path = target
    if kind.startswith("link"):
        path = tmp_path / "link"
        path.symlink_to(target)
    with pytest.raises(UsageError, match=f"{path}: (expected a regular file|cannot be read)"):
        read_small_file(path)


def test_follows_links_to_files(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blob")
    assert read_json_object(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize("name", ["absent.json", "a\0b", "blob/config.json"])
def test_names_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "blob").write_text("")
    with pytest.raises(DatasetError, match=r"no such file|cannot be read"):
        read_small_file(tmp_path / name, error=DatasetError)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1,\n}', "not JSON: .*line 2 column 1"),
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "not JSON: nested too deeply"),
        (b"[" * 201 + b"]" * 201, "nested more than 200 levels deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON: an integer of 5000 digits, expected at most 40"),
        (b'{"n": -' + b"9" * 4000 + b"}", "not JSON: an integer of 4001 digits"),
    ],
)
def test_refuses_json_that_cannot_be_used(content: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=f"^list.json: {problem}"):
        parse_json(content, "list.json")


def test_accepts_what_other_tools_write() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1]}', "here") == {"a": [1]}
    assert parse_json('{"a": [1]}'.encode("utf-16"), "here") == {"a": [1]}
    assert parse_json("[" * 200 + "]" * 200, "here")
    assert parse_json(str(2**127), "here") == 2**127
    assert parse_json("[" + "[]," * 300 + "[]]", "here") == [[]] * 301


def test_expects_an_object() -> None:
    assert parse_json_object("{}", "here") == {}
    with pytest.raises(DatasetError, match=r"here: expected a JSON object, got \[1\]"):
        parse_json_object("[1]", "here", DatasetError)


@given(st.binary(max_size=40) | st.text("[]{}\"':,0123456789.eE-+ \n\\untrlfasN", max_size=40))
def test_any_content_parses_or_raises_the_given_error(content: bytes | str) -> None:
    with suppress(DatasetError):
        parse_json(content, "here", DatasetError)
