"""Opening of files: regular files only, limits, and errors while reading as refusals."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shared.errors import RefusedInput
from shared.storage.paths import as_path
from vq_stage.media import image_decoding
from vq_stage.media.image_decoding import read_bytes
from vq_stage.sources import media_source
from vq_stage.sources.files import FilePart, open_file
from vq_stage.sources.folder import FolderSource


def refusal(call: Callable[[], object]) -> RefusedInput:
    with pytest.raises(RefusedInput) as refused:
        call()
    return refused.value


def test_a_git_lfs_pointer_says_what_to_run(tmp_path: Path) -> None:
    """As in a clone without Git LFS, where every file has such a text in its place."""
    pointer = tmp_path / "picture.png"
    pointer.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    refused = refusal(lambda: open_file(pointer))
    assert (refused.reason, "git lfs pull" in refused.detail) == ("missing", True)


def test_special_files_are_refused_without_being_opened(tmp_path: Path) -> None:
    """Opening the pipe would wait for its writer, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        found = {
            name: str(refusal(lambda name=name: open_file(tmp_path / name)))  # type: ignore[misc]
            for name in ("pipe.png", "link.png", "socket.png", "")
        }
    assert found == {
        "pipe.png": "unreadable: a named pipe, expected a regular file",
        "link.png": "unreadable: a device, expected a regular file",
        "socket.png": "unreadable: a socket, expected a regular file",
        "": "unreadable: a folder, expected a regular file",
    }


def test_files_without_a_size_count_as_empty() -> None:
    """Files of /proc have content, but no size; some of them block or never end."""
    assert refusal(lambda: open_file(Path("/proc/self/environ"))).reason == "empty"


def test_a_read_error_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    for read in (lambda file: file.read(), lambda file: file.read(3)):
        with open_file(tmp_path / "a.png") as file:
            folder = os.open(tmp_path, os.O_RDONLY)  # reading from a folder fails as a failing disk does
            os.dup2(folder, file.fileno())
            os.close(folder)
            assert str(refusal(lambda: read(file))) == "unreadable: Is a directory"  # noqa: B023


def test_a_read_error_of_a_store_is_a_refusal() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError("reset by peer")

    assert refusal(io.BufferedReader(FilePart(Broken(), 0, 9)).read).reason == "unreadable"


def test_huge_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    assert refusal(lambda: FolderSource(tmp_path).open("sparse.png")).reason == "too_large"
    monkeypatch.setattr(image_decoding, "MAX_FILE_BYTES", 6)
    assert refusal(lambda: read_bytes(io.BytesIO(b"content"))).reason == "too_large"
    assert read_bytes(io.BytesIO(b"conten")) == b"conten"


def test_of_a_huge_remote_image_only_a_part_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_path("memory://huge.png")
    path.write_bytes(b"content")
    fetched: list[int] = []
    cat_file = MemoryFileSystem.cat_file

    def recorded(*arguments: object, **limits: object) -> bytes:
        data: bytes = cat_file(*arguments, **limits)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", recorded)
    assert refusal(lambda: open_file(path, is_fetched=True, max_bytes=3)).reason == "too_large"
    assert fetched == [4]
    with open_file(path, is_fetched=True, max_bytes=7) as file:
        assert file.read() == b"content"


def test_remote_files_without_a_suffix_have_the_limit_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    as_path("memory://large/picture").write_bytes(b"content")
    monkeypatch.setattr(media_source, "MAX_FILE_BYTES", 6)
    assert refusal(lambda: FolderSource(as_path("memory://large")).open("picture")).reason == "too_large"
