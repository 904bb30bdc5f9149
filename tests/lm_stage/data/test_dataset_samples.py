"""Captioned images and videos from the rows of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lm_stage.data.options import ROW_TASKS
from lm_stage.data.sequences import SequenceBuilder
from lm_stage.text.prompting import EMU35
from lm_stage.text.renderer import CodeGrid, SequenceRenderer
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.settings import SEQUENCE_FORMAT
from shared.errors import DatasetError
from shared.tokens.grid_formats import ROWS
from tests.support import handmade
from tests.support.sft_samples import (
    assert_lengths_are_true,
    extra_row,
    image_row,
    mixed_units,
    opened,
    small_builder,
    video_row,
    write_dataset,
    write_lines,
)


def test_sequences_hold_the_images_and_captions_of_the_rows(tmp_path: Path, builder: SequenceBuilder) -> None:
    units = mixed_units()
    samples = opened(write_dataset(tmp_path / "codes", units), builder)
    for index, given in enumerate([row for rows in units for row in rows]):
        for drop_caption in (False, True):
            caption = "" if drop_caption else given.text or ""
            expected = builder.captioned(builder.encode(caption), CodeGrid(given.codes_THW, is_video=False))
            built = samples.sequence(index, drop_caption)
            assert built.token_ids.tolist() == expected.token_ids.tolist()
            assert built.weights.tolist() == expected.weights.tolist()


def test_captions_in_the_form_of_emu35(tmp_path: Path) -> None:
    """A drawing after BSS; a row without a caption, or whose caption is dropped, has the unconditional prompt."""
    units, builder = mixed_units(), small_builder(prompting=EMU35)
    samples, layout = opened(write_dataset(tmp_path / "codes", units), builder), builder.layout
    assert_lengths_are_true(samples)
    for index, given in enumerate([row for rows in units for row in rows]):
        for drop_caption in (False, True):
            text = f"You are a helpful assistant for t2i task. USER: {given.text} ASSISTANT: "
            if drop_caption or not given.text:
                text = "You are a helpful assistant. USER:  ASSISTANT: "
            prompt = [layout.bos, *builder.encode(text).tolist(), layout.bss]
            image = np.concatenate(builder.renderer.header_and_body(CodeGrid(given.codes_THW, is_video=False)))
            built = samples.sequence(index, drop_caption)
            assert built.token_ids.tolist() == [*prompt, *image.tolist(), layout.ess, layout.eos]
            assert built.weights.tolist() == [0.0] * len(prompt) + [1.0] * (len(image) + 2)


@pytest.mark.parametrize("task", ["understand", "text"])
def test_other_tasks_in_the_form_of_emu35(tmp_path: Path, task: str) -> None:
    builder = small_builder(prompting=EMU35)
    samples = opened(write_dataset(tmp_path / "codes", mixed_units()), builder, task)
    assert_lengths_are_true(samples)
    lines = [{"text": "a red apple"}, {"question": "what?", "answer": "a pear"}]
    assert_lengths_are_true(opened(write_lines(tmp_path / "t.jsonl", *lines), builder, "text"))
    if task == "understand":
        sequence, layout = samples.sequence(0, False), builder.layout
        answer = [*builder.encode("a red apple").tolist(), layout.ess, layout.eos]
        assert sequence.token_ids[-len(answer) - 1 :].tolist() == [layout.bss, *answer]
        assert sequence.weights.tolist() == [0.0] * (len(sequence.weights) - len(answer)) + [1.0] * len(answer)


def test_videos_follow_their_captions_in_the_chosen_template(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [video_row(0, 2), video_row(1, 3, text="a red apple"), video_row(2, 1, text=None)]
    path = write_dataset(tmp_path / "d", [rows], format=SEQUENCE_FORMAT)
    with_eol = SequenceBuilder(SequenceRenderer(builder.renderer.text_tokenizer, builder.layout, ROWS), builder.loss)
    for built in (builder, with_eol):
        samples = opened(path, built, "video")
        assert_lengths_are_true(samples)
        for index, given in enumerate(rows):
            expected = built.captioned(built.encode(given.text or ""), CodeGrid.video(given.codes_THW))
            assert samples.sequence(index, False).token_ids.tolist() == expected.token_ids.tolist()
            without = built.captioned(built.encode(""), CodeGrid.video(given.codes_THW))
            assert samples.sequence(index, True).token_ids.tolist() == without.token_ids.tolist()
    assert (opened(path, with_eol, "video").lengths - opened(path, builder, "video").lengths).tolist() == [4, 6, 2]


def test_an_unfinished_dataset_is_refused(tmp_path: Path, builder: SequenceBuilder) -> None:
    path = write_dataset(tmp_path / "codes", [[image_row(0)], [image_row(1)]], commit=False)
    with pytest.raises(DatasetError, match=rf"{path}: 2 of 3 units are missing"):
        opened(path, builder)
    dataset = Dataset(path)
    dataset.commit(UnitResult(1, [image_row(1)], numerics=handmade.NUMERICS), dataset.plan())
    with pytest.raises(DatasetError, match="1 of 3 units are missing"):
        opened(path, builder)
    dataset.commit(UnitResult(0, [image_row(0)], numerics=handmade.NUMERICS), dataset.plan())
    assert opened(path, builder).keys == ["k0", "k1"]


@pytest.mark.parametrize("task", ROW_TASKS)
def test_a_damaged_part_is_named(task: str, tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [image_row(0), image_row(1)]
    dataset = Dataset(write_dataset(tmp_path / "codes", [[rows[0]], [rows[1]]]))
    part = dataset.parts / dataset.record(1).part
    content = bytearray(part.read_bytes())
    content[content.index(rows[1].codes_bytes)] ^= 1
    part.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{part.name}.*damaged rows: 'k1'"):
        opened(dataset.root, builder, task)


def test_codes_beyond_the_codebook_are_named(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        image_row(0, codes_THW=np.array([[[511]]], np.uint16)),
        image_row(1, codes_THW=np.array([[[3, 512]]], np.uint16)),
    ]
    path = write_dataset(tmp_path / "codes", [rows])
    for task in ("image", "understand"):
        samples = opened(path, builder, task)
        assert builder.layout.end_of_visual - 1 in samples.sequence(0, False).token_ids
        with pytest.raises(DatasetError, match=rf"{path}: row 'k1': code 512"):
            samples.sequence(1, False)


def test_samples_carry_the_codec_of_their_dataset(tmp_path: Path, builder: SequenceBuilder) -> None:
    samples = opened(write_dataset(tmp_path / "codes", [[image_row(0)]]), builder)
    assert samples.codec == handmade.settings().codec
    assert opened(write_lines(tmp_path / "t.jsonl", {"text": "a"}), builder, "text").codec is None


def test_every_caption_of_a_row_is_a_sample(tmp_path: Path, builder: SequenceBuilder) -> None:
    rows = [
        extra_row(0, texts=["a caption", "another one"]),
        image_row(1),
        extra_row(2, None, texts=7),
        extra_row(3, texts=[]),
    ]
    samples = opened(write_dataset(tmp_path / "codes", [rows]), builder)
    assert samples.keys == ["k0", "k0", "k1", "k2", "k3"]
    assert samples.without_text == ["k2"]
    assert_lengths_are_true(samples)
    for index, (row, caption) in enumerate(
        [(0, "a caption"), (0, "another one"), (1, "caption 1"), (2, ""), (3, "a caption")]
    ):
        expected = builder.captioned(builder.encode(caption), CodeGrid(rows[row].codes_THW, is_video=False))
        assert samples.sequence(index, False).token_ids.tolist() == expected.token_ids.tolist()
