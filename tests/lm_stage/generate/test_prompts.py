"""From prompt files and datasets to prompts, and from prompts to units."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_stage.generate.grid_size import grid_size
from lm_stage.generate.planner import longest_prompt, max_body_length, plan_prompts, planned_prompt, token_counts
from lm_stage.generate.prompt_files import list_prompts
from lm_stage.generate.prompts import Prompt, PromptDefaults
from lm_stage.generate.renderer import PromptRenderer
from lm_stage.text.parts import CodeGrid
from lm_stage.text.renderer import SequenceRenderer
from lm_stage.text.tokenizer import HuggingFaceTokenizer
from lm_stage.text.training import train_text_tokenizer
from shared.dataset.commit import UnitResult
from shared.dataset.dataset import Dataset
from shared.dataset.plan import Plan, Unit
from shared.dataset.plan_writer import freeze_plan
from shared.dataset.readers import KeyReader
from shared.dataset.rows import SEQUENCE_FORMAT, SequenceRecord
from shared.errors import RefusedInput, UsageError
from shared.tokens.visual_tokens import IMAGE, ROWS, UNIVLA
from tests.support import handmade

DEFAULTS = PromptDefaults(area=32 * 32)


@pytest.fixture(scope="module")
def templates() -> SequenceRenderer:
    vocabulary = train_text_tokenizer(["a red apple"] * 3, 280, handmade.CODEBOOK_SIZE)
    return SequenceRenderer(HuggingFaceTokenizer(json.loads(vocabulary.tokenizer_json), "", "here"), vocabulary.layout)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Rows one, two, three of 2 × 3 codes; the second has no caption."""
    dataset, plan = handmade.freeze(tmp_path / "codes", ["one", "two", "three"])
    rows = [handmade.record(index, key) for index, key in enumerate(["one", "two", "three"])]
    rows[1] = replace(rows[1], text=None)
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(3)]), plan)
    return dataset


def write(path: Path, entries: Sequence[Any]) -> Path:
    """As .json or .jsonl."""
    text = json.dumps(entries) if path.suffix == ".json" else "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_text(text)
    return path


def reasons(prompts: Sequence[Prompt]) -> list[str | None]:
    return [prompt.refusal and prompt.refusal[0] for prompt in prompts]


@pytest.mark.parametrize(
    ("ratio", "area", "size"),
    [
        ("1:1", 720 * 720, (90, 90)),
        ("1:1", 512 * 512, (64, 64)),
        ("16:9", 720 * 720, (68, 120)),  # 67.5 rows
        ("9:16", 720 * 720, (120, 68)),
        ("4:3", 720 * 720, (78, 104)),
        ("1.5:1", 24 * 16, (2, 3)),
        ("1:1", 20 * 20, (2, 2)),  # 2.5 codes: Python rounds to even
        ("1:1", 28 * 28, (4, 4)),  # 3.5 codes
        ("1:1", 64, (1, 1)),
    ],
)
def test_ratio_and_area_give_the_grid_of_upstream(ratio: str, area: int, size: tuple[int, int]) -> None:
    assert grid_size(ratio, area) == size


@given(st.integers(1, 40), st.integers(1, 40), st.integers(64 * 64, 2048 * 2048))
def test_the_grid_is_the_nearest_to_ratio_and_area(across: int, down: int, area: int) -> None:
    height, width = grid_size(f"{across}:{down}", area)
    side = math.sqrt(area / (across * down))
    assert abs(height * 8 - down * side) < 4.001
    assert abs(width * 8 - across * side) < 4.001
    assert grid_size(f"{down}:{across}", area) == (width, height)


def test_height_and_width_win_over_ratio_and_area() -> None:
    assert grid_size("16:9", 720 * 720, 64, 48) == (8, 6)
    assert grid_size("16:9", 720 * 720, 8, 8) == (1, 1)


@pytest.mark.parametrize(
    "ratio",
    [
        "0:1",
        "1:0",
        "-1:1",
        "1:-1",
        "-1:-1",
        "nan:1",
        "1:nan",
        "inf:1",
        "1:inf",
        "wide",
        "",
        ":",
        "16",
        "16:9:1",
        "1e9:1",
    ],
)
def test_ratios_that_give_no_image_are_refused(ratio: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        grid_size(ratio, 720 * 720)
    assert refused.value.reason == "bad_ratio"
    assert repr(ratio) in refused.value.detail


@pytest.mark.parametrize(
    ("height", "width"), [(64, None), (None, 64), (60, 64), (64, 60), (0, 64), (64, 0), (-8, 64), (64, -8), (4, 4)]
)
def test_sizes_that_give_no_image_are_refused(height: int | None, width: int | None) -> None:
    with pytest.raises(RefusedInput, match="bad_size"):
        grid_size("1:1", 720 * 720, height, width)


@pytest.mark.parametrize("area", [63, 0, -64])
def test_areas_below_one_code_are_refused(area: int) -> None:
    with pytest.raises(RefusedInput, match=f"bad_size: area {area}"):
        grid_size("1:1", area)


def test_areas_beyond_any_image_are_refused() -> None:
    with pytest.raises(RefusedInput, match="125000×125000 codes"):
        grid_size("1:1", 10**12)


@pytest.mark.parametrize(("ratio", "area"), [("1e-200:1e-200", 518400), ("1e308:1e-308", 518400), ("1:1", 10**400)])
def test_numbers_beyond_arithmetic_are_refused(ratio: str, area: int) -> None:
    with pytest.raises(RefusedInput, match="bad_ratio"):
        grid_size(ratio, area)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**70},
        {"height": 8, "width": 80000},
        {"ratio": "2:1", "width": 8},
        {"area": 0},
        {"key": None},
        {"key": [1]},
        {"key": ""},
        {"key": "\ud800"},
        {"prompt": "\ud800"},
        {"negative_prompt": "\ud800"},
        {"images": ["\ud800"]},
    ],
)
def test_values_that_no_plan_can_hold_are_refused(fields: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "a", **fields}))
    (prompt,) = list_prompts(path, PromptDefaults(32 * 32))
    assert prompt.refusal is not None
    assert prompt.refusal[0] in ("bad_entry", "bad_size")


def test_a_row_whose_caption_is_blank_is_refused_alone(tmp_path: Path) -> None:
    dataset, plan = handmade.freeze(tmp_path / "codes", ["one", "two"])
    rows = [replace(handmade.record(0, "one"), text="  "), handmade.record(1, "two")]
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), plan)
    refusals = [prompt.refusal and prompt.refusal[0] for prompt in list_prompts(dataset.root, PromptDefaults(32 * 32))]
    assert refusals == ["empty_prompt", None]


@pytest.mark.parametrize(
    "changes",
    [{"samples": 0}, {"ratio": "0:1"}, {"area": 0}, {"height": 64}, {"height": 60, "width": 64}, {"frames": -1}],
)
def test_bad_defaults_stop_the_run(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PromptDefaults(**{"area": 32 * 32, **changes})


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
    assert list_prompts(write(tmp_path / name, entries), defaults) == [
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


def test_samples_stand_side_by_side_under_keys_of_their_own(tmp_path: Path) -> None:
    path = write(
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
    prompts = list_prompts(write(tmp_path / "prompts.json", entries), DEFAULTS)
    assert [prompt.key for prompt in prompts] == ["x-0", "x-1", "x-1", "x", "x-1"]
    assert reasons(prompts) == [None, None, "duplicate_key", None, "duplicate_key"]
    assert prompts[4].refusal == ("duplicate_key", "key 'x-1' is taken by prompts.json#1")


@pytest.mark.parametrize(
    ("entry", "reason", "named"),
    [
        (
            {"prompt": "a", "promt": "b", "zoom": 2},
            "bad_entry",
            "unknown fields 'promt', 'zoom'; expected some of area, fps, frames, height",
        ),
        (5, "bad_entry", "int"),
        (None, "bad_entry", "NoneType"),
        (["a"], "bad_entry", "list"),
        ({}, "empty_prompt", "None"),
        ("", "empty_prompt", "''"),
        ({"prompt": " \n"}, "empty_prompt", "prompt"),
        ({"prompt": ["a"]}, "empty_prompt", "['a']"),
        ({"prompt": "a", "images": "one"}, "bad_entry", "`images`"),
        ({"prompt": "a", "images": [1]}, "bad_entry", "`images`"),
        ({"prompt": "a", "negative_prompt": 3}, "bad_entry", "`negative_prompt`"),
        ({"prompt": "a", "seed": "1"}, "bad_entry", "`seed`"),
        ({"prompt": "a", "seed": True}, "bad_entry", "`seed`"),
        ({"prompt": "a", "area": 1.5}, "bad_entry", "`area`"),
        ({"prompt": "a", "height": "64", "width": 64}, "bad_entry", "`height`"),
        ({"prompt": "a", "samples": 0}, "bad_entry", "`samples`"),
        ({"prompt": "a", "samples": True}, "bad_entry", "`samples`"),
        ({"prompt": "a", "samples": "2"}, "bad_entry", "`samples`"),
        ({"prompt": "a", "frames": -1}, "bad_frames", "got -1"),
        ({"prompt": "a", "frames": 65536}, "bad_frames", "65535"),
        ({"prompt": "a", "frames": 1.5}, "bad_entry", "`frames`"),
        ({"prompt": "a", "frames": True}, "bad_entry", "`frames`"),
        ({"prompt": "a", "video": "clip"}, "bad_frames", "expected `frames` too"),
        ({"prompt": "a", "video": 3, "frames": 2}, "bad_entry", "`video`"),
        ({"prompt": "a", "video": "", "frames": 2}, "bad_entry", "`video`"),
        ({"prompt": "a", "fps": 8}, "bad_entry", "`fps`: expected `frames` too"),
        ({"prompt": "a", "frames": 2, "fps": 0}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": "8"}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": True}, "bad_entry", "`fps`"),
        ({"prompt": "a", "frames": 2, "fps": float("nan")}, "bad_entry", "`fps`"),
        ({"prompt": "a", "ratio": "0:1"}, "bad_ratio", "'0:1'"),
        ({"prompt": "a", "ratio": 1.5}, "bad_ratio", "1.5"),
        ({"prompt": "a", "height": 64}, "bad_size", "both or neither"),
        ({"prompt": "a", "height": 64, "width": 60}, "bad_size", "64×60"),
        ({"prompt": "a", "area": 10}, "bad_size", "area 10"),
    ],
)
def test_a_bad_entry_is_refused_and_the_others_are_not(entry: Any, reason: str, named: str, tmp_path: Path) -> None:
    prompts = list_prompts(write(tmp_path / "prompts.jsonl", ["before", entry, "after"]), DEFAULTS)
    assert reasons(prompts) == [None, reason, None]
    assert prompts[1].refusal is not None
    assert named in prompts[1].refusal[1]
    assert [prompt.key for prompt in prompts] == ["000001", "000002", "000003"]
    assert prompts[1].uri == "prompts.jsonl#2"


def test_a_refused_entry_keeps_its_own_key(tmp_path: Path) -> None:
    entries = [{"key": "mine", "prompt": ""}, {"name": "too", "prompt": "a", "samples": 0}]
    prompts = list_prompts(write(tmp_path / "prompts.json", entries), DEFAULTS)
    assert [prompt.key for prompt in prompts] == ["mine", "too"]


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
        ("prompts.jsonl", b'"a"\nnot json\n'),
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


def test_captions_of_a_dataset_are_prompts_of_its_sizes(dataset: Dataset) -> None:
    prompts = list_prompts(dataset.root, PromptDefaults(32 * 32, seed=4, negative_prompt="blurry"))
    assert [prompt.key for prompt in prompts] == ["one", "two", "three"]
    assert prompts[0] == Prompt("one", "codes#one", "caption 0", "blurry", 2, 3, 4)
    assert prompts[2] == Prompt("three", "codes#three", "caption 2", "blurry", 2, 3, 4)
    assert reasons(prompts) == [None, "empty_prompt", None]


def test_a_size_asked_for_wins_over_that_of_the_rows(dataset: Dataset) -> None:
    prompts = list_prompts(dataset.root, PromptDefaults(32 * 32, samples=2, is_size_given=True))
    assert [prompt.key for prompt in prompts] == ["one-0", "one-1", "two", "three-0", "three-1"]
    assert {(prompt.height, prompt.width) for prompt in prompts if not prompt.refusal} == {(4, 4)}


def test_a_dataset_without_rows_stops_the_run(tmp_path: Path) -> None:
    dataset, _ = handmade.freeze(tmp_path / "empty", ["one"])
    with pytest.raises(UsageError, match="no prompt"):
        list_prompts(dataset.root, DEFAULTS)


def plan(
    prompts: Sequence[Prompt], templates: SequenceRenderer, positions: int = 400, unit_rows: int = 64
) -> list[Unit]:
    return plan_prompts(prompts, PromptRenderer(templates, "", True, None), positions, unit_rows)


def refusal_of(units: Sequence[Unit]) -> tuple[str | None, str]:
    """Of a plan with one refused prompt and no other."""
    assert [(unit.height, unit.width, len(unit.inputs)) for unit in units] == [(0, 0, 1)]
    return units[0].inputs[0].refused_reason, units[0].inputs[0].refused_detail or ""


@given(
    sizes=st.lists(st.sampled_from([(1, 2), (2, 1), (3, 3), (1, 4), None]), min_size=1, max_size=12),
    unit_rows=st.integers(1, 5),
)
def test_units_hold_every_prompt_once_by_size(
    templates: SequenceRenderer, sizes: list[tuple[int, int] | None], unit_rows: int
) -> None:
    prompts = [
        Prompt(f"k{index}", "p", f"text {index}", "no", *size, seed=index)
        if size
        else Prompt(f"k{index}", "p", "", refusal=("bad_entry", f"detail {index}"))
        for index, size in enumerate(sizes)
    ]
    units = plan(prompts, templates, unit_rows=unit_rows)
    assert [unit.unit for unit in units] == list(range(len(units)))
    areas = [unit.height * unit.width for unit in units]
    assert areas == sorted(areas, reverse=True), "largest first, what was refused last"
    assert sorted(item.src_index for unit in units for item in unit.inputs) == list(range(len(prompts)))
    for size in set(sizes):
        pixels = (size[0] * 8, size[1] * 8) if size else (0, 0)
        chunks = [unit.inputs for unit in units if (unit.height, unit.width) == pixels]
        assert [item.src_index for chunk in chunks for item in chunk] == [i for i, s in enumerate(sizes) if s == size]
        assert all(len(chunk) == unit_rows for chunk in chunks[:-1])
        assert 1 <= len(chunks[-1]) <= unit_rows
    for unit in units:
        for item in unit.inputs:
            prompt = prompts[item.src_index]
            assert (item.refused_reason and (item.refused_reason, item.refused_detail)) == prompt.refusal
            assert planned_prompt(unit, item) == replace(prompt, refusal=None)


def test_a_plan_knows_its_longest_prompt_and_all_its_tokens(templates: SequenceRenderer, tmp_path: Path) -> None:
    prompts = [
        Prompt("a", "p", "xx", "", 2, 3),
        Prompt("b", "p", "xxxx", "", 2, 3),
        Prompt("c", "p", "x", "xxxxxx", 2, 3),
        Prompt("d", "p", "x" * 30, "", 1, 1),
        Prompt("e", "p", "", refusal=("bad_entry", "")),
    ]
    units = plan(prompts, templates, unit_rows=2)
    assert [(unit.height, unit.width, len(unit.inputs)) for unit in units] == [
        (16, 24, 2), (16, 24, 1), (8, 8, 1), (0, 0, 1)
    ]  # fmt: skip
    freeze_plan(tmp_path / "plan.arrow", units, handmade.settings(), len(prompts))
    frozen = Plan(tmp_path / "plan.arrow")
    around = 6  # BOS BOI h * w IMG
    assert longest_prompt(frozen, (1, 16, 24)) == 6 + around
    assert longest_prompt(frozen, (1, 8, 8)) == 30 + around
    assert token_counts(frozen, [0, 1, 2, 3], UNIVLA) == (3 * 10 + 4, 0)
    assert token_counts(frozen, [1], UNIVLA) == (3 * 10 + 4, 2 * 10 + 4)
    assert token_counts(frozen, [], UNIVLA) == (3 * 10 + 4, 3 * 10 + 4)


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(templates: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "x" * 20, "", 2, 3)  # 20 and 6 around them, an image of 2 · 4 + 2
    assert [unit.height for unit in plan([prompt], templates, positions=36)] == [16]
    reason, detail = refusal_of(plan([prompt], templates, positions=35))
    assert reason == "too_long"
    assert detail == "prompt (26) and image of 2×3 codes take 36 tokens, the model has 35 positions"


def test_suffix_and_negative_prompt_take_positions(templates: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "xx", "x" * 20, 2, 3)
    assert refusal_of(plan([prompt], templates, positions=35))[0] == "too_long"
    unguided = PromptRenderer(templates, "", False, None)
    assert unguided.negative_ids(prompt) is None
    assert [unit.height for unit in plan_prompts([prompt], unguided, 35, 1)] == [16]
    suffixed = PromptRenderer(templates, "x" * 18, False, None)
    assert refusal_of(plan_prompts([prompt], suffixed, 35, 1))[0] == "too_long"


def test_a_suffix_and_a_negative_prompt_are_rendered(templates: SequenceRenderer) -> None:
    prompt, renderer = Prompt("a", "p", "a red", "a pear", 2, 3), PromptRenderer(templates, " apple", True, None)
    assert renderer.text(prompt) == "a red apple"
    assert renderer.prompt_ids(prompt) == templates.generation_prompt(["a red apple"], IMAGE, 1, 2, 3).tolist()
    assert renderer.negative_ids(prompt) == templates.generation_prompt(["a pear"], IMAGE, 1, 2, 3).tolist()


def test_images_of_prompts_come_from_their_dataset(dataset: Dataset, templates: SequenceRenderer) -> None:
    prompt = Prompt("a", "p", "like <image> but <image>", "no", 2, 3, images=("three", "one"))
    index = KeyReader(dataset)
    renderer = PromptRenderer(templates, "", True, index)
    parts = ["like ", CodeGrid.image(index.image("three")), " but ", CodeGrid.image(index.image("one"))]
    assert renderer.prompt_ids(prompt) == templates.generation_prompt(parts, IMAGE, 1, 2, 3).tolist()
    [unit] = plan_prompts([prompt], renderer, 400, 1)
    assert planned_prompt(unit, unit.inputs[0]) == prompt


@pytest.mark.parametrize(
    ("images", "text", "has_index", "reason", "named"),
    [
        (("one",), "a", False, "missing_image", "--images"),
        (("one", "four"), "a", True, "missing_image", "'four'"),
        (("one",), "<image> and <image>", True, "bad_images", "2 <image> marks in the text, 1 images"),
        ((), "a literal <image>", True, "bad_images", "1 <image> marks in the text, 0 images"),
    ],
)
def test_prompts_whose_images_are_not_there_are_refused(
    images: tuple[str, ...],
    text: str,
    has_index: bool,
    reason: str,
    named: str,
    dataset: Dataset,
    templates: SequenceRenderer,
) -> None:
    renderer = PromptRenderer(templates, "", True, KeyReader(dataset) if has_index else None)
    prompt = Prompt("a", "p#1", text, "no", 2, 3, 4, images)
    units = plan_prompts([prompt], renderer, 400, 1)
    assert refusal_of(units)[0] == reason
    assert named in refusal_of(units)[1]
    item = units[0].inputs[0]
    assert (item.key, item.uri, item.text) == ("a", "p#1", text)


CLIP = np.arange(12, dtype=np.uint16).reshape(2, 2, 3)


@pytest.fixture
def clips(tmp_path: Path) -> Dataset:
    """Rows clip (2 frames of 2 × 3 codes, 24 fps), still (an image) and failed (nothing)."""
    dataset, plan = handmade.freeze(tmp_path / "clips", ["clip", "still", "failed"])
    common = {"src_sha256": bytes(32), "src_h": 16, "src_w": 24, "src_uri": "p"}
    nothing = np.zeros((0, 0, 0), np.uint16)
    rows = [
        SequenceRecord("clip", 0, "video", CLIP, "a red apple", fps=24.0, **common),
        SequenceRecord("still", 1, "image", CLIP[:1], "a pear", **common),
        SequenceRecord("failed", 2, "video", nothing, "x", valid=False, error="row 0", tokens=(1,), **common),
    ]
    dataset = with_format(dataset, plan)
    dataset.commit(UnitResult(0, rows, numerics=handmade.NUMERICS), dataset.plan())
    dataset.commit(UnitResult(1, refusals=[handmade.refusal(3)]), dataset.plan())
    return dataset


def with_format(dataset: Dataset, plan: Plan) -> Dataset:
    """The same empty dataset, for sequences."""
    units = [plan.unit(number) for number in range(len(plan))]
    dataset.plan_path.unlink()
    freeze_plan(dataset.plan_path, units, replace(handmade.settings(), format=SEQUENCE_FORMAT), plan.input_count)
    return dataset


def test_entries_ask_for_videos_by_their_frames(tmp_path: Path) -> None:
    entries = [
        {"prompt": "a"},
        {"prompt": "b", "frames": 4, "height": 16, "width": 24, "fps": 12},
        {"prompt": "c", "frames": 0},
        {"prompt": "d", "frames": 3, "video": "clip"},
        {"prompt": "e", "frames": 3, "video": "clip", "height": 16, "width": 24},
    ]
    path = write(tmp_path / "p.json", entries)
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


def video(frames: int = 3, **changes: Any) -> Prompt:
    return replace(Prompt("v", "p#1", "xx", "", 2, 3, frames=frames), **changes)


def test_videos_have_units_and_tokens_of_their_own(templates: SequenceRenderer, tmp_path: Path) -> None:
    prompts = [Prompt("i", "p", "xx", "", 2, 3), video(), video(1, key="one"), video(4, key="four", fps=12.0)]
    units = plan(prompts, templates)
    assert [unit.size for unit in units] == [(4, 16, 24), (3, 16, 24), (1, 16, 24)]
    assert [item.key for unit in units for item in unit.inputs] == ["four", "v", "i", "one"]
    planned = [planned_prompt(unit, item) for unit in units for item in unit.inputs]
    with_fps = [replace(prompt, fps=prompt.fps or 8.0) if prompt.frames else prompt for prompt in prompts]
    assert planned == [with_fps[index] for index in (3, 1, 0, 2)]
    freeze_plan(tmp_path / "plan.arrow", units, handmade.settings(), len(prompts))
    frozen = Plan(tmp_path / "plan.arrow")
    assert longest_prompt(frozen, (3, 16, 24)) == 2 + 8  # BOS BOI t * h * w IMG
    assert max_body_length((3, 16, 24), UNIVLA) == 3 * 7 + 1
    assert max_body_length((3, 16, 24), ROWS) == 3 * 9 + 1
    assert max_body_length((1, 16, 24), UNIVLA) == 10, "an image's, in which a video of one frame fits"
    assert token_counts(frozen, [0], UNIVLA) == (29 + 22 + 2 * 10, 22 + 2 * 10)


def test_a_video_that_does_not_fit_is_refused_with_numbers(templates: SequenceRenderer) -> None:
    units = plan([video(100, text="x" * 20)], templates, positions=729)
    reason, detail = refusal_of(units)
    assert reason == "too_long"
    assert detail == "prompt (30) and video of 100×2×3 codes take 731 tokens, the model has 729 positions"
    assert [unit.frames for unit in plan([video(100, text="x" * 20)], templates, positions=731)] == [100]


def test_a_video_is_rendered_in_its_form(templates: SequenceRenderer) -> None:
    with_rows = SequenceRenderer(templates.text_tokenizer, templates.layout, ROWS)
    for rendering in (templates, with_rows):
        renderer = PromptRenderer(rendering, "", True, None)
        video_format = rendering.video_format
        assert renderer.prompt_ids(video()) == rendering.generation_prompt(["xx"], video_format, 3, 2, 3).tolist()
        assert renderer.negative_ids(video()) == rendering.generation_prompt([], video_format, 3, 2, 3).tolist()
        assert renderer.grid_format(video()) == video_format
        assert renderer.prefix_codes(video()).shape == (0, 2, 3)


def test_a_video_takes_size_and_fps_of_the_clip_it_begins_with(clips: Dataset, templates: SequenceRenderer) -> None:
    renderer = PromptRenderer(templates, "", True, KeyReader(clips))
    begun = video(video="clip", height=0, width=0)
    prompts = [begun, video(video="clip", key="w", fps=5.0), video(video="still", key="s", height=0, width=0)]
    [unit] = plan_prompts(prompts, renderer, 400, 8)
    assert unit.size == (3, 16, 24)
    planned = [planned_prompt(unit, item) for item in unit.inputs]
    assert [prompt.fps for prompt in planned] == [24.0, 5.0, 8.0]
    assert [prompt.video for prompt in planned] == ["clip", "clip", "still"]
    np.testing.assert_array_equal(renderer.prefix_codes(planned[0]), CLIP)
    np.testing.assert_array_equal(renderer.prefix_codes(planned[2]), CLIP[:1])


@pytest.mark.parametrize(
    ("changes", "has_index", "reason", "named"),
    [
        ({"video": "clip"}, False, "missing_image", "--images"),
        ({"video": "nowhere"}, True, "missing_image", "'nowhere'"),
        ({"video": "failed"}, True, "missing_image", "'failed'"),
        ({"video": "clip", "frames": 2}, True, "bad_frames", "2 frames: the clip has 2"),
        ({"video": "clip", "frames": 1}, True, "bad_frames", "1 frames: the clip has 2"),
        ({"video": "clip", "height": 3, "width": 2}, True, "bad_size", "3×2 codes: the clip has 2×3"),
        ({"video": "clip", "frames": 300}, True, "too_long", "video of 300×2×3"),
    ],
)
def test_videos_that_cannot_go_on_are_refused(
    changes: dict[str, Any], has_index: bool, reason: str, named: str, clips: Dataset, templates: SequenceRenderer
) -> None:
    renderer = PromptRenderer(templates, "", True, KeyReader(clips) if has_index else None)
    units = plan_prompts([video(**changes)], renderer, 400, 1)
    assert [unit.size for unit in units] == [(0, 0, 0)]
    assert refusal_of(units)[0] == reason
    assert named in refusal_of(units)[1]


def test_what_a_plan_holds_of_images_is_what_it_always_held(templates: SequenceRenderer) -> None:
    """Written down before there were videos: a key more, and datasets begun by then could not be resumed."""
    prompts = [
        Prompt("a", "p", "a red apple", "", 2, 3),
        Prompt("b", "p", "b", "no", 2, 3, seed=7),
        Prompt("c", "p", "like", "", 2, 3, images=("x",)),
        Prompt("d", "p", "", refusal=("bad_entry", "")),
    ]
    units = plan(prompts, templates)
    assert [item.extra_json for unit in units for item in unit.inputs] == [
        '{"images":[],"negative_prompt":"","prompt_tokens":9,"seed":0}',
        '{"images":[],"negative_prompt":"no","prompt_tokens":8,"seed":7}',
        '{"images":["x"],"negative_prompt":"","prompt_tokens":0,"seed":0}',
        '{"images":[],"negative_prompt":"","prompt_tokens":0,"seed":0}',
    ]
