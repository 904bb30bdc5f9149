"""Files and directories that exist completely or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.storage.atomic import (
    create_copy,
    create_file,
    remove_directory,
    remove_stale_directories,
    replaced_directory,
    write_file,
)
from shared.storage.paths import as_path
from tests.support.directories import write_directory


def test_create_copy_never_overwrites(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"0123456789" * 300_000)
    assert create_copy(path, source)
    assert path.read_bytes() == source.read_bytes()
    assert not create_copy(path, path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "copy"}


def test_create_file_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "record"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    write_file(path, b"third")
    assert path.read_bytes() == b"third"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"], "no temporary file stays"


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record"
    write_file(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record"]


def test_a_directory_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model"
    write_directory(directory, {"config.json": b"{}", "old": b""})
    write_directory(directory, {"config.json": b"[]"})
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {"config.json": b"[]"}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_directory(directory, {"config.json": b"new"})
    assert (directory / "config.json").read_bytes() == b"[]"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    remove_directory(directory)
    assert list(tmp_path.iterdir()) == []


def test_directories_of_killed_processes_are_removed(tmp_path: Path) -> None:
    killed, mine, other = (
        tmp_path / f"{name}.tmp"
        for name in ("run.999999999-00000000", f"run.{os.getpid()}-00000000", "runs.999999999-00000000")
    )
    for folder in (killed, mine, other):
        folder.mkdir()
        (folder / "tokens.bin").write_bytes(b"half")
    remove_stale_directories(tmp_path / "run")
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])


def test_an_object_is_created_once(remote_root: str) -> None:
    path = as_path(f"{remote_root}/record.json")
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"


def test_one_of_many_writers_creates_the_object(s3: Callable[[str], str]) -> None:
    path, won = as_path(f"{s3('contended')}/contended.json"), []

    def write(number: int) -> None:
        if create_file(path, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert path.read_bytes() == str(won[0]).encode()


def test_a_link_to_a_replaced_directory_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "run", tmp_path / "run"
    target.mkdir(parents=True)
    (target / "old").write_bytes(b"")
    link.symlink_to(target)
    with replaced_directory(link) as temporary:
        assert temporary.parent == target.parent, "on the same file system"
        (temporary / "new").write_bytes(b"")
    assert link.readlink() == target
    assert [path.name for path in target.iterdir()] == ["new"]
    left = target.with_name("run.999999999-00000000.tmp")
    left.mkdir()
    remove_stale_directories(link)
    assert [path.name for path in target.parent.iterdir()] == ["run"]
