"""Mixtures: entries as given on the command line, samples that fit a row, and fingerprints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import ROW_TASKS, MixtureEntry
from lm_stage.data.sequences import SequenceBuilder
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
    video_row,
    write_dataset,
    write_lines,
)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("codes", MixtureEntry("codes", "image", 1.0)),
        ("a b/c=d", MixtureEntry("a b/c=d", "image", 1.0)),
        ("codes,task=understand", MixtureEntry("codes", "understand", 1.0)),
        ("codes,weight=0.5", MixtureEntry("codes", "image", 0.5)),
        ("t.jsonl,weight=2,task=text", MixtureEntry("t.jsonl", "text", 2.0)),
        ("clips,task=video", MixtureEntry("clips", "video", 1.0)),
        ("d.jsonl,task=document,images=a b", MixtureEntry("d.jsonl", "document", 1.0, "a b")),
    ],
)
def test_entries_are_parsed(text: str, entry: MixtureEntry) -> None:
    assert MixtureEntry.parse(text) == entry


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",task=image",
        "codes,",
        "codes,,task=image",
        "codes,image",
        "codes,tsk=image",
        "codes,task",
        "codes,task=",
        "codes,task=clip",
        "d.jsonl,task=document",
        "d.jsonl,task=document,images=",
        "codes,images=other",
        "codes,path=other",
        "codes,weight",
        "codes,weight=",
        "codes,weight=heavy",
        "codes,weight=0",
        "codes,weight=-1",
        "codes,weight=nan",
        "codes,weight=inf",
        "codes,task=image,task=video",
        "codes,weight=1,weight=1",
    ],
)
def test_malformed_entries_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        MixtureEntry.parse(text)
    assert repr(text) in str(refused.value)


def test_samples_longer_than_a_row_are_listed_and_skipped(tmp_path: Path, builder: SequenceBuilder) -> None:
    codes = write_dataset(tmp_path / "codes", mixed_units())
    lines = write_lines(tmp_path / "t.jsonl", {"text": "b"}, {"text": "b" * 200})
    images, texts = opened(codes, builder), opened(lines, builder, "text")
    row_length = int(images.lengths[0])
    mixture = Mixture([MixtureEntry(str(codes)), MixtureEntry(str(lines), "text")], builder, row_length)
    assert images.lengths[[1, 3, 4]].min() > row_length
    expected = [(str(codes), f"k{index}", int(images.lengths[index])) for index in (1, 3, 4)]
    assert mixture.too_long == [*expected, (str(lines), texts.keys[1], int(texts.lengths[1]))]
    assert [indices.tolist() for indices in mixture.sample_indices] == [[0, 2, 5], [0]]


def test_a_row_too_short_for_all_samples_of_an_entry_is_refused(tmp_path: Path, builder: SequenceBuilder) -> None:
    codes, lines = (
        write_dataset(tmp_path / "codes", [[image_row(0), image_row(1)]]),
        write_lines(tmp_path / "t.jsonl", {"text": "b"}),
    )
    shortest = int(opened(codes, builder).lengths.min())
    entries = [MixtureEntry(str(lines), "text"), MixtureEntry(str(codes))]
    assert not Mixture(entries, builder, shortest).too_long
    message = rf"{codes}: no sample fits a row of {shortest - 1} tokens, the shortest has {shortest}.*--seq-length"
    with pytest.raises(UsageError, match=message):
        Mixture(entries, builder, shortest - 1)


def test_fingerprints_change_with_content_task_and_weight(tmp_path: Path, builder: SequenceBuilder) -> None:
    plain = [image_row(0), image_row(1)]
    other = [replace(plain[0], codes_THW=plain[0].codes_THW ^ 1), plain[1]]
    paths = [write_dataset(tmp_path / name, [rows]) for name, rows in (("a", plain), ("b", other))]
    lines = [write_lines(tmp_path / name, {"text": text}) for name, text in (("a.jsonl", "a"), ("b.jsonl", "b"))]
    entries = [MixtureEntry(str(path)) for path in paths] + [
        MixtureEntry(str(path), "text") for path in [*lines, paths[0]]
    ]
    entries.append(MixtureEntry(str(paths[0]), "image", 2.0))
    described = [str(one) for one in Mixture(entries, builder, 100).fingerprints()]
    assert len(set(described)) == len(entries)
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    moved = [replace(entry, path=entry.path.replace("/a", "/elsewhere")) for entry in entries[:1]]
    assert str(Mixture(moved, builder, 100).fingerprints()[0]) == described[0]


def test_the_video_template_is_recorded_for_datasets_with_videos(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write_dataset(tmp_path / "d", [[sequence_row(0), video_row(1, 2)]], format=SEQUENCE_FORMAT)
    entries = [MixtureEntry(str(path), task) for task in ROW_TASKS]
    recorded = [one.get("video_template") for one in Mixture(entries, builder, 100).fingerprints()]
    univla = {"name": "univla", "size": "T*H*W", "has_eol": False}
    assert recorded == [None, univla, univla, None]


@pytest.mark.parametrize("task", ["image", "understand", "text"])
def test_lengths_match_the_sequences(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write_dataset(tmp_path / "codes", mixed_units()), builder, task)
    assert_lengths_are_true(samples)
    captioned = [f"k{index}" for index, text in enumerate(CAPTIONS) if text or task == "image"]
    assert samples.keys == captioned
    assert len(set(samples.lengths.tolist())) > 2


KINDS_OF_TASKS = {"image": [2, 4], "video": [1, 5], "understand": [1, 2, 4, 5], "text": [1, 2, 4, 5]}


@pytest.mark.parametrize("task", ROW_TASKS)
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


@pytest.mark.parametrize("task", ROW_TASKS)
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


@pytest.mark.parametrize("task", ROW_TASKS)
def test_anything_but_a_dataset_is_refused(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    for name in ("nothing", "nothing.jsonl", "."):
        with pytest.raises(DatasetError, match=str(tmp_path)):
            opened(tmp_path / name, builder, task)
