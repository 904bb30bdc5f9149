"""Prompts from text files, JSON files and the captions of a dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompts import Prompt, PromptDefaults
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.rows import AnswerPart, AnswerRecord
from shared.dataset.settings import ANSWER_FORMAT
from shared.errors import UsageError
from tests.support import handmade
from tests.support.prompts import write_entries
from tests.support.sft_samples import write_dataset

DEFAULTS = PromptDefaults(area=32 * 32)


def reasons(prompts: Sequence[Prompt]) -> list[str | None]:
    return [prompt.refusal and prompt.refusal[0] for prompt in prompts]


def test_a_row_whose_caption_is_blank_is_refused_alone(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "codes", ["one", "two"])
    rows = [replace(handmade.record(0, "one"), text="  "), handmade.record(1, "two")]
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    refusals = [prompt.refusal and prompt.refusal[0] for prompt in list_prompts(dataset.root, PromptDefaults(32 * 32))]
    assert refusals == ["empty_prompt", None]


def test_rows_without_a_grid_have_the_size_of_the_defaults(tmp_path: Path) -> None:
    part = AnswerPart("image", None, 2, 3)
    codes, described = np.zeros((1, 1, 6), np.uint16), {"src_uri": "p#1", "src_sha256": bytes(32)}
    row = AnswerRecord("one", 0, "answer", codes, "a story", src_h=0, src_w=0, parts=(part,), tokens=[1], **described)
    root = write_dataset(tmp_path / "answers", [[row]], format=ANSWER_FORMAT)
    [prompt] = list_prompts(root, PromptDefaults(32 * 16, "2:1"))
    assert (prompt.text, prompt.height, prompt.width) == ("a story", 2, 4)


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red apple\r\n\r\n  a\u2028pear\n".encode())
    assert list_prompts(path, PromptDefaults(24 * 16, "3:2", negative_prompt="blurry", seed=5)) == [
        Prompt("000001", "prompts.txt#1", "a red apple", "blurry", 2, 3, 5),
        Prompt("000003", "prompts.txt#3", "a\u2028pear", "blurry", 2, 3, 5),
    ]


@pytest.mark.parametrize("name", ["prompts.json", "prompts.jsonl"])
def test_json_prompts_have_settings_of_their_own(name: str, tmp_path: Path) -> None:
    entries = [
        "plain",
        {"prompt": "sized", "height": 64, "width": 48, "ratio": "16:9"},
        {"text": "named", "name": "n", "ratio": "3:2", "area": 24 * 16, "seed": 9, "negative_prompt": "dull"},
        {"prompt": "keyed", "key": 7, "images": ["one", "two"]},
    ]
    defaults = PromptDefaults(32 * 32, height=8, width=16, negative_prompt="blurry", seed=5)
    assert list_prompts(write_entries(tmp_path / name, entries), defaults) == [
        Prompt("000001", f"{name}#1", "plain", "blurry", 1, 2, 5),
        Prompt("000002", f"{name}#2", "sized", "blurry", 8, 6, 5),
        Prompt("n", f"{name}#3", "named", "dull", 2, 3, 9),
        Prompt("7", f"{name}#4", "keyed", "blurry", 1, 2, 5, ("one", "two")),
    ]


def test_lines_of_jsonl_end_at_newlines_only(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('\ufeff"a\u2028b"\r\n\n"c"\n', encoding="utf-8")
    assert [(prompt.key, prompt.text) for prompt in list_prompts(path, DEFAULTS)] == [
        ("000001", "a\u2028b"),
        ("000003", "c"),
    ]


def test_samples_of_a_prompt_have_their_own_keys(tmp_path: Path) -> None:
    path = write_entries(
        tmp_path / "prompts.json", ["a", {"prompt": "b", "key": "b", "samples": 3}, {"prompt": "c", "samples": 1}]
    )
    prompts = list_prompts(path, PromptDefaults(32 * 32, samples=2))
    assert [prompt.key for prompt in prompts] == ["000001-0", "000001-1", "b-0", "b-1", "b-2", "000003"]
    assert "".join(prompt.text for prompt in prompts) == "aabbbc"
    assert {prompt.seed for prompt in prompts} == {0}, "the key, not the seed, tells samples apart"


def test_a_taken_key_is_refused(tmp_path: Path) -> None:
    entries = [
        {"prompt": "a", "key": "x", "samples": 2},
        {"prompt": "b", "key": "x-1"},
        {"prompt": "c", "name": "x"},
        {"prompt": "d", "key": "x-1"},
    ]
    prompts = list_prompts(write_entries(tmp_path / "prompts.json", entries), DEFAULTS)
    assert [prompt.key for prompt in prompts] == ["x-0", "x-1", "x-1", "x", "x-1"]
    assert reasons(prompts) == [None, None, "duplicate_key", None, "duplicate_key"]
    assert prompts[4].refusal == ("duplicate_key", "key 'x-1' is taken by prompts.json#1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", b""),
        ("prompts.txt", b" \n\r\n\n"),
        ("prompts.txt", b"\xff\xfe"),
        ("prompts.json", b"[]"),
        ("prompts.json", b"["),
        ("prompts.json", b""),
        ("prompts.json", b'{"prompt": "a"}'),
        ("prompts.json", b'"a"'),
        ("prompts.jsonl", b""),
        ("prompts.csv", b"a\n"),
        ("prompts", b"a\n"),
        ("missing.txt", None),
        ("missing.jsonl", None),
        (".", None),
    ],
)
def test_files_that_hold_no_prompts_stop_the_run(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        list_prompts(path, DEFAULTS)
    assert str(path) in str(error.value)


def test_captions_of_a_dataset_are_prompts_of_its_sizes(coded_images: Dataset) -> None:
    prompts = list_prompts(coded_images.root, PromptDefaults(32 * 32, seed=4, negative_prompt="blurry"))
    assert [prompt.key for prompt in prompts] == ["one", "two", "three"]
    assert prompts[0] == Prompt("one", "codes#one", "caption 0", "blurry", 2, 3, 4)
    assert prompts[2] == Prompt("three", "codes#three", "caption 2", "blurry", 2, 3, 4)
    assert reasons(prompts) == [None, "empty_prompt", None]


def test_a_size_asked_for_wins_over_that_of_the_rows(coded_images: Dataset) -> None:
    prompts = list_prompts(coded_images.root, PromptDefaults(32 * 32, samples=2, is_size_given=True))
    assert [prompt.key for prompt in prompts] == ["one-0", "one-1", "two", "three-0", "three-1"]
    assert {(prompt.height, prompt.width) for prompt in prompts if not prompt.refusal} == {(4, 4)}


def test_a_dataset_without_rows_stops_the_run(tmp_path: Path) -> None:
    dataset, _ = handmade.freeze(tmp_path / "empty", ["one"])
    with pytest.raises(UsageError, match="no prompt"):
        list_prompts(dataset.root, DEFAULTS)


def test_entries_ask_for_videos_by_their_frames(tmp_path: Path) -> None:
    entries = [
        {"prompt": "a"},
        {"prompt": "b", "frames": 4, "height": 16, "width": 24, "fps": 12},
        {"prompt": "c", "frames": 0},
        {"prompt": "d", "frames": 3, "video": "clip"},
        {"prompt": "e", "frames": 3, "video": "clip", "height": 16, "width": 24},
    ]
    path = write_entries(tmp_path / "p.json", entries)
    prompts = list_prompts(path, PromptDefaults(32 * 32, frames=2))
    assert reasons(prompts) == [None] * 5
    assert [(prompt.frames, prompt.video, prompt.fps) for prompt in prompts] == [
        (2, None, None), (4, None, 12.0), (0, None, None), (3, "clip", None), (3, "clip", None)
    ]  # fmt: skip
    assert [(prompt.height, prompt.width) for prompt in prompts] == [(4, 4), (2, 3), (4, 4), (0, 0), (2, 3)]


def test_captions_of_videos_are_prompts_of_their_frames_and_size(clips: Dataset) -> None:
    prompts = list_prompts(clips.root, DEFAULTS)
    assert prompts[0] == Prompt("clip", "clips#clip", "a red apple", "", 2, 3, frames=2, fps=24.0)
    assert prompts[1] == Prompt("still", "clips#still", "a pear", "", 2, 3)
    assert prompts[2].refusal is not None
    asked = list_prompts(clips.root, PromptDefaults(32 * 32, frames=5))
    assert [prompt.frames for prompt in asked[:2]] == [5, 5], "frames asked for win, as a size does"


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"not json", "bad_entry", "line 2: not JSON"),
        (b"\xff", "bad_entry", "line 2: not JSON"),
        (b"[" * 100_000, "bad_entry", "line 2: not JSON: nested too deeply"),
        (b'{"prompt": "a", "images": ' + b"[" * 150 + b"]" * 150 + b"}", "bad_entry", "line 2: `images`"),
        (b'{"prompt": "a", "seed": ' + b"7" * 5000 + b"}", "bad_entry", "line 2: not JSON: an integer of 5000 digits"),
        (b'{"prompt": "a", "samples": 1000000000}', "bad_entry", "line 2: `samples`"),
        (b'{"prompt": "a", "seed": NaN}', "bad_entry", "line 2: `seed`"),
        (b'{"prompt": "' + b"a" * 100_001 + b'"}', "too_long", "line 2: `prompt`: 100001 characters"),
        (b'{"prompt": "a", "ratio": "' + b"1" * 5000 + b':1"}', "bad_ratio", "line 2: ratio '111"),
    ],
)
def test_a_bad_line_is_refused_alone(line: bytes, reason: str, detail: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.JSONL"
    path.write_bytes(b'"before"\n' + line + b'\n{"prompt": "after", "key": "000002"}\n')
    prompts = list_prompts(path, DEFAULTS)
    assert reasons(prompts)[:2] == [None, reason]
    assert prompts[1].refusal is not None
    assert prompts[1].refusal[1].startswith(detail)
    assert len(prompts[1].refusal[1]) < 400


def test_null_is_absent_in_every_field(tmp_path: Path) -> None:
    names = ("key", "name", "text", "negative_prompt", "seed", "samples", "images", "frames", "video", "fps", "ratio")
    nothing = dict.fromkeys([*names, "area", "height", "width"])
    path = write_entries(
        tmp_path / "prompts.json", [{**nothing, "prompt": "a"}, {**nothing, "prompt": None, "text": "b"}]
    )
    defaults = PromptDefaults(32 * 32, height=16, width=24, negative_prompt="no", seed=5, samples=1, frames=2)
    assert list_prompts(path, defaults) == [
        Prompt(f"00000{number}", f"prompts.json#{number}", text, "no", 2, 3, 5, frames=2)
        for number, text in enumerate("ab", 1)
    ]


def test_files_that_are_not_regular_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("device.txt", "pipe.jsonl", "folder.json", "huge.txt"):
        with pytest.raises(UsageError, match=name):
            list_prompts(tmp_path / name, DEFAULTS)


def test_a_file_with_too_many_samples_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_stage.generate.prompt_files.MAX_PROMPTS", 10)
    path = write_entries(tmp_path / "prompts.json", ["a", "b"])
    assert len(list_prompts(path, PromptDefaults(32 * 32, samples=5))) == 10
    with pytest.raises(UsageError, match="more than 10 prompts"):
        list_prompts(path, PromptDefaults(32 * 32, samples=6))


def test_utf_16_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a é\r\nb\r\n", encoding="utf-16")
    assert [prompt.text for prompt in list_prompts(tmp_path / "prompts.txt", DEFAULTS)] == ["a é", "b"]
