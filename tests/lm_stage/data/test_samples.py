"""Samples of every task: their lengths, which rows become samples, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.data.sequences import TASKS, SequenceBuilder
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.errors import DatasetError, UsageError
from tests.support.sft_samples import (
    CAPTIONS,
    assert_lengths_are_true,
    failed_row,
    image_row,
    mixed_units,
    opened,
    sequence_row,
    small_builder,
    video_row,
    write_dataset,
    write_lines,
)


@pytest.fixture(scope="module")
def builder() -> SequenceBuilder:
    return small_builder()


@pytest.mark.parametrize("task", ["image", "understand", "text"])
def test_lengths_match_the_sequences(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write_dataset(tmp_path / "codes", mixed_units()), builder, task)
    assert_lengths_are_true(samples)
    captioned = [f"k{index}" for index, text in enumerate(CAPTIONS) if text or task == "image"]
    assert samples.keys == captioned
    assert len(set(samples.lengths.tolist())) > 2


KINDS_OF_TASKS = {"image": [2, 4], "video": [1, 5], "understand": [1, 2, 4, 5], "text": [1, 2, 4, 5]}


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_selected_by_kind_and_failed_sequences_skipped(
    task: str, tmp_path: Path, builder: SequenceBuilder
) -> None:
    """A clip of one frame is a video too."""
    rows = [
        failed_row(0),
        video_row(1, 2),
        sequence_row(2),
        replace(failed_row(3), kind="video"),
        sequence_row(4, text="a red apple"),
    ]
    rows.append(video_row(5, 1))
    path = write_dataset(tmp_path / "d", [rows[:3], rows[3:4], rows[4:]], format=SEQUENCE_FORMAT)
    samples = opened(path, builder, task)
    assert samples.keys == [f"k{index}" for index in KINDS_OF_TASKS[task]]
    assert samples.has_videos == (task in ("video", "understand"))
    assert_lengths_are_true(samples)
    for index, number in enumerate(KINDS_OF_TASKS[task]):
        tokens = samples.sequence(index, False).token_ids
        visual = tokens[(tokens >= builder.layout.first_visual_token) & (tokens < builder.layout.end_of_visual)]
        codes = [] if task == "text" else rows[number].codes_THW.reshape(-1).tolist()
        assert (visual - builder.layout.first_visual_token).tolist() == codes


@pytest.mark.parametrize("task", ["image", "understand"])
def test_a_file_of_texts_needs_the_text_task(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"text": "a"})
    with pytest.raises(UsageError, match=rf"{path}.*task=text"):
        opened(path, builder, task)


@pytest.mark.parametrize("task", TASKS)
def test_a_dataset_without_samples_is_refused(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    paths = [
        write_dataset(tmp_path / "refused", []),
        write_dataset(tmp_path / "failed", [[failed_row(0)]], format=SEQUENCE_FORMAT),
    ]
    paths += [write_dataset(tmp_path / "silent", [[image_row(0, text=None)]])] if task != "image" else []
    paths += [write_dataset(tmp_path / "images", [[image_row(0)]])] if task == "video" else []
    paths += [write_dataset(tmp_path / "clips", [[video_row(0, 1)]], format=SEQUENCE_FORMAT)] if task == "image" else []
    paths += [tmp_path / "empty.jsonl"] if task == "text" else []
    for path in paths:
        with pytest.raises(UsageError, match=rf"{path}: contains no samples for task {task}"):
            opened(path, builder, task)


@pytest.mark.parametrize("task", TASKS)
def test_anything_but_a_dataset_is_refused(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    for name in ("nothing", "nothing.jsonl", "."):
        with pytest.raises(DatasetError, match=str(tmp_path)):
            opened(tmp_path / name, builder, task)
