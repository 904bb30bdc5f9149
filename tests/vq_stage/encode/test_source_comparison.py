"""A source is compared with its dataset by content, not by the times of its files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pyarrow as pa
import pytest

from shared.dataset.change import Change
from shared.dataset.dataset import Dataset
from shared.jobs.signals import StopFlag
from tests.support.handmade import settings
from tests.support.small_sources import commit_missing, planner, png
from vq_stage.encode.options import EncodeOptions
from vq_stage.encode.plan_updates import up_to_date_plan
from vq_stage.encode.source_comparison import EncodedContents, compare_source
from vq_stage.media.resizing import Preprocessing
from vq_stage.sources.media_source import MediaItem
from vq_stage.sources.open_source import open_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of two pictures, one of them with a caption, and a broken one; and `dataset`, encoded from it."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(png(1))
    (folder / "a.txt").write_text("a caption")
    (folder / "sub/b.png").write_bytes(png(2))
    (folder / "broken.png").write_bytes(b"broken")
    (tmp_path / "dataset").mkdir()
    dataset, opened = Dataset(tmp_path / "dataset"), open_source(folder)
    plan = up_to_date_plan(dataset, planner(opened), settings(), StopFlag())
    commit_missing(dataset, plan, source=opened)
    return folder


def change(source: Path) -> Change:
    dataset, preprocessing = str(source.parent / "dataset"), Preprocessing("none")
    return compare_source(EncodeOptions(str(source), dataset, preprocessing=preprocessing))


def test_times_do_not_matter(source: Path) -> None:
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    assert change(source) is Change.NONE
    source.rename(source.with_name("moved"))
    assert change(source.with_name("moved")) is Change.NONE


def test_new_inputs_are_growth(source: Path) -> None:
    (source / "c.png").write_bytes(png(3))
    assert change(source) is Change.GROWN


@pytest.mark.parametrize("name", ["a.png", "sub/b.png"])
def test_other_content_is_a_change(name: str, source: Path) -> None:
    (source / "c.png").write_bytes(png(3))
    (source / name).write_bytes((source / name).read_bytes() + b" ")
    assert change(source) is Change.CHANGED


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "broken.png"])
def test_missing_content_is_a_change(name: str, source: Path) -> None:
    (source / name).unlink()
    assert change(source) is Change.CHANGED


@pytest.mark.parametrize("name", ["a.txt", "sub/b.txt"])
def test_another_caption_is_a_change_of_texts_and_with_another_picture_more(name: str, source: Path) -> None:
    (source / name).write_text("another caption")
    (source / "more.png").write_bytes(png(5))
    assert change(source) is Change.TEXTS
    (source / name).with_suffix(".png").write_bytes(png(4))
    assert change(source) is Change.CHANGED


def test_texts_are_stripped(source: Path) -> None:
    (source / "a.txt").write_bytes((source / "a.txt").read_bytes() + b" ")
    assert change(source) is Change.NONE


@pytest.mark.parametrize("text", ["another caption", None])
def test_texts_that_are_updated_are_the_same_again(text: str | None, source: Path) -> None:
    (source / "a.txt").write_text(text) if text else (source / "a.txt").unlink()
    assert change(source) is Change.TEXTS
    dataset, opened = Dataset.open(source.parent / "dataset"), open_source(source)
    up_to_date_plan(dataset, planner(opened, update_texts=True), settings(), StopFlag())
    assert change(source) is Change.NONE


def test_another_frame_rate_is_not_only_a_text() -> None:
    row = {"src_uri": "walk.frames", "text": "a walk", "extra_json": '{"fps": 2}', "src_sha256": b"digest"}
    batch = {name: pa.array([value]) for name, value in row.items()}
    dataset, opened = MagicMock(), MagicMock()
    dataset.plan().uris.return_value = ["walk.frames"]
    dataset.commit_records.return_value = [None]
    dataset.batches.return_value = [batch]
    dataset.texts.apply = lambda batch: batch
    opened.sha256.return_value = b"digest"
    encoded, walk = EncodedContents(dataset), MediaItem("walk", "walk.frames", "a walk", extra_json='{"fps": 2}')
    assert encoded.change(walk, opened) is Change.NONE
    assert encoded.change(replace(walk, text="a run"), opened) is Change.TEXTS
    assert encoded.change(replace(walk, extra_json='{"fps": 3}'), opened) is Change.CHANGED
