"""Which files are images, videos, or files of the operating system."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vq_stage.sources.media_types import is_media, is_system_name, kind_of, split_suffix


@pytest.mark.parametrize(
    "path",
    [
        *("._cat.jpg", "a/._cat.jpg", "__MACOSX/cat.jpg", "a/__MACOSX/._cat.jpg", ".ipynb_checkpoints/cat.jpg"),
        *("@eaDir/cat.jpg/THUMB.jpg", ".Trash-1000/files/cat.jpg", "Thumbs.db", "a/thumbs.DB", "Desktop.ini"),
        *(".DS_Store", ".cache/", "./.hidden/cat.jpg", "$RECYCLE.BIN/cat.jpg", "a\\.git\\cat.jpg"),
    ],
)
def test_names_of_systems_and_hidden_names(path: str) -> None:
    assert is_system_name(path)


@pytest.mark.parametrize("path", ["cat.jpg", "./cat.jpg", "../cat.jpg", "a.b/c", "macosx/cat.jpg", "a..jpg", "", "a/"])
def test_ordinary_names(path: str) -> None:
    assert not is_system_name(path)


@pytest.mark.parametrize("name", ["a.JPG", "a.Mp4", "https://host/a.PNG?x=1.txt"])
def test_suffixes_in_any_case(name: str) -> None:
    assert is_media(name)
    assert kind_of(name) == ("video" if "4" in name else "image")


@given(st.text("a./", max_size=12))
def test_suffixes_are_split_like_those_of_the_standard_library(path: str) -> None:
    assert split_suffix(path) == os.path.splitext(path)
