"""Mixtures: entries as given on the command line, samples that fit a row, and fingerprints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lm_stage.data.mixture import Mixture, MixtureEntry
from lm_stage.data.sequences import TASKS, SequenceBuilder
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.errors import UsageError
from tests.support.sft_samples import (
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


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("codes", MixtureEntry("codes", "image", 1.0)),
        ("a b/c=d", MixtureEntry("a b/c=d", "image", 1.0)),
        ("codes,task=understand", MixtureEntry("codes", "understand", 1.0)),
        ("codes,weight=0.5", MixtureEntry("codes", "image", 0.5)),
        ("t.jsonl,weight=2,task=text", MixtureEntry("t.jsonl", "text", 2.0)),
        ("clips,task=video", MixtureEntry("clips", "video", 1.0)),
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
        "codes,path=other",
        "codes,weight",
        "codes,weight=",
        "codes,weight=heavy",
        "codes,weight=0",
        "codes,weight=-1",
        "codes,weight=nan",
        "codes,weight=inf",
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
    entries = [MixtureEntry(str(path), task) for task in TASKS]
    recorded = [one.get("video_template") for one in Mixture(entries, builder, 100).fingerprints()]
    univla = {"name": "univla", "size": "T*H*W", "has_eol": False}
    assert recorded == [None, univla, univla, None]
