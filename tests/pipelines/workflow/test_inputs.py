"""The recorded content of a step's inputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.workflow.inputs import InputState


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("photos/a.png", "photos/a.txt", "photos/b.png", "photos/deep/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "photos"


def test_an_image_and_its_caption_are_one_item(photos: Path) -> None:
    assert len(InputState.read(str(photos)).items) == 3


def test_more_files_add_items_and_changed_files_change_theirs(photos: Path) -> None:
    before = InputState.read(str(photos))
    (photos / "d.png").write_text("new")
    grown = InputState.read(str(photos))
    assert grown.fixed == before.fixed
    assert len(grown.items) == 4
    assert np.isin(before.items, grown.items).all()
    os.utime(photos / "a.txt", (0, 0))
    assert np.isin(before.items, InputState.read(str(photos)).items).sum() == 2


def test_metadata_files_are_fixed_and_hidden_files_ignored(photos: Path) -> None:
    before = InputState.read(str(photos))
    (photos / ".hidden").write_text("x")
    assert InputState.read(str(photos)).fixed == before.fixed
    (photos / "metadata.jsonl").write_text("{}")
    after = InputState.read(str(photos))
    assert after.fixed != before.fixed
    assert sorted(after.items) == sorted(before.items)


def test_a_small_file_is_compared_by_content(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red apple")
    before = InputState.read(str(path)).fixed
    os.utime(path, (0, 0))
    assert InputState.read(str(path)).fixed == before
    path.write_text("a green pear")
    assert InputState.read(str(path)).fixed != before


@pytest.mark.parametrize("location", ["s3://bucket/photos", "-"])
def test_remote_inputs_and_stdin_are_not_seen(location: str) -> None:
    assert len(InputState.read(location).items) == 0


def test_linked_folders_are_seen_and_output_is_not(photos: Path) -> None:
    before = InputState.read(str(photos))
    (photos / "codes" / "parts").mkdir(parents=True)
    (photos / "codes" / "plan.arrow").touch()
    (photos / "loop").symlink_to(photos)
    assert sorted(InputState.read(str(photos)).items) == sorted(before.items)
    (photos.parent / "more").mkdir()
    (photos.parent / "more" / "e.png").touch()
    (photos / "linked").symlink_to("../more")
    assert len(InputState.read(str(photos)).items) == 4


def test_folders_that_match_a_pattern_grow(photos: Path) -> None:
    before = InputState.read(f"{photos}/d*")
    (photos / "deep" / "d.png").touch()
    assert len(InputState.read(f"{photos}/d*").items) == len(before.items) + 1


def test_a_dataset_is_seen_if_it_is_the_input_itself(photos: Path) -> None:
    (photos / "plan.arrow").touch()
    (photos / "parts").mkdir()
    before = InputState.read(str(photos))
    (photos / "parts" / "part-000000.json").touch()
    assert len(InputState.read(str(photos)).items) == len(before.items) + 1
