"""Paths on disk and in object stores, and local copies of remote directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import UsageError
from shared.storage.paths import as_path, is_file_name, local_directory, make_directory


def test_a_remote_checkpoint_is_copied_once_a_version(
    remote_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMU3_CACHE", str(tmp_path))
    remote = as_path(f"{remote_root}/model")
    (remote / "config.json").write_bytes(b"{}")
    (remote / "folder" / "weights").write_bytes(b"12345")
    copy = local_directory(f"{remote_root}/model")
    assert (copy / "folder" / "weights").read_bytes() == b"12345"
    assert local_directory(f"{remote_root}/model") == copy
    (remote / "config.json").write_bytes(b"[1]")
    assert (local_directory(f"{remote_root}/model") / "config.json").read_bytes() == b"[1]"
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "../a", "a/b", "a/", "a\0"])
def test_names_of_other_folders_are_no_file_names(name: str) -> None:
    assert not is_file_name(name)


def test_dots_in_a_file_name_are_accepted() -> None:
    assert is_file_name("..part-000001.arrow")


@pytest.mark.parametrize("inside", ["", "a/b"])
def test_a_link_to_nothing_is_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"link: is a link to .*nothing, which does not exist"):
        make_directory(tmp_path / "link" / inside)
    assert not (tmp_path / "nothing").exists()
