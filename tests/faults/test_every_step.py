"""Every job is killed at every single change to the disk and at every token, and then run again.

Other disturbances come at every third step; those at every step are slow tests.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import handmade
from tests.support.command import ENCODE, INTERRUPTED, MODEL, SMALL_UNITS
from tests.support.disturbed_runs import compared, problems, steps
from tests.support.pictures import save_picture
from tests.support.small_datasets import WIDE_CODEC, code_rows, write_dataset


@pytest.fixture(scope="module")
def five_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures of one size, which make two units, and one input that is refused."""
    folder = tmp_path_factory.mktemp("five")
    for index in range(4):
        save_picture(folder / f"sub/picture-{index}.png", index)
    (folder / "broken.png").write_text("not a picture")
    return folder


OTHERS = {"ENOSPC": ("fail", {1, 0}), "SIGTERM": ("SIGTERM", {INTERRUPTED, 0}), "SIGINT": ("SIGINT", {INTERRUPTED, 0})}
DISTURBANCES = [
    pytest.param("kill", {-9}, 1, id="SIGKILL"),
    *(pytest.param(*OTHERS[name], 3, id=name) for name in ("ENOSPC", "SIGTERM")),  # SIGINT is handled as SIGTERM is
    *(pytest.param(*other, 1, id=f"{name} everywhere", marks=pytest.mark.slow) for name, other in OTHERS.items()),
]

# without the two at every third step, which units of two pictures and the other jobs have
KILL_AND_SLOW = [one for one in DISTURBANCES if one.id not in ("ENOSPC", "SIGTERM")]


@pytest.mark.parametrize(("disturbance", "allowed", "every"), DISTURBANCES)
def test_encode_disturbed_at_every_step(
    disturbance: str, allowed: set[int], every: int, five_inputs: Path, tmp_path: Path
) -> None:
    """The files are those of an undisturbed run, byte for byte; the exit code is 0 only if everything is done."""
    command = ("encode", five_inputs, "{}", *ENCODE, *SMALL_UNITS)
    lines = steps(disturbance, tmp_path / "work", None, *command, every=every)
    assert sum(name.endswith(".arrow") for name in lines[-1]["after"]) == 4, "plan, two units, refused input"
    assert problems(lines, allowed) == []


@pytest.mark.parametrize(("disturbance", "allowed", "every"), KILL_AND_SLOW)
def test_encode_disturbed_at_every_step_of_one_unit(
    disturbance: str, allowed: set[int], every: int, five_inputs: Path, tmp_path: Path
) -> None:
    """One unit of two batches: the rows saved in `partial/` leave no trace."""
    command = ("encode", five_inputs, "{}", *ENCODE, "--unit-rows", "64")
    lines = steps(disturbance, tmp_path / "work", None, *command, every=every)
    assert problems(lines, allowed) == []


def test_codes_of_32_bits_killed_at_every_fourth_step(five_inputs: Path, tmp_path: Path) -> None:
    """Encoding, then decoding, with a codec of 131 072 entries and 16 × 16 pixels per code."""
    wide, size = {"EMU3_TESTS_WIDE_CODEC": "1"}, ("--resize", "area", "--area", "1024")
    command = ("encode", five_inputs, "{}", *ENCODE, *SMALL_UNITS, *size)
    lines = steps("kill", tmp_path / "work", None, *command, every=4, **wide)
    assert sum(name.endswith(".arrow") for name in lines[-1]["after"]) == 4, "plan, two units, refused input"
    assert problems(lines, {-9}) == []
    settings = replace(handmade.settings(), codec=WIDE_CODEC)
    dataset = write_dataset(tmp_path / "codes", code_rows(WIDE_CODEC)[:3], settings).root
    lines = steps("kill", tmp_path / "decoding", None, "decode", dataset, "{}", *MODEL, every=4, **wide)
    assert sum(name.endswith(".png") for name in lines[-1]["after"]) == 3
    assert problems(lines, {-9}) == []


@pytest.mark.parametrize(("disturbance", "allowed", "every"), DISTURBANCES)
def test_decode_disturbed_at_every_step(disturbance: str, allowed: set[int], every: int, tmp_path: Path) -> None:
    dataset = handmade.make(tmp_path / "dataset").root
    lines = steps(disturbance, tmp_path / "work", None, "decode", dataset, "{}", *MODEL, every=every)
    assert sum(name.endswith(".png") for name in lines[-1]["after"]) == 3
    assert problems(lines, allowed) == []


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two prompts of one size, which make two units, and one prompt that is refused."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("one", "two", "")))
    return path


@pytest.mark.parametrize(("disturbance", "allowed", "every"), DISTURBANCES)
def test_generate_disturbed_at_every_step(
    disturbance: str, allowed: set[int], every: int, prompts: Path, small_lm: Path, tmp_path: Path
) -> None:
    options = ("--unit-rows", "1", "--batch-size", "2", "--journal-rows", "1", "--height", "16", "--width", "24")
    command = ("generate", prompts, "{}", "--model", small_lm, *options, "--window", "2")
    lines = steps(disturbance, tmp_path / "work", None, *command, every=every)
    assert sum(name.endswith(".arrow") for name in lines[-1]["after"]) == 4, "plan, two units, refused input"
    assert problems(lines, allowed) == []


@pytest.mark.parametrize(("disturbance", "allowed", "every"), DISTURBANCES)
def test_understand_disturbed_at_every_step(
    disturbance: str, allowed: set[int], every: int, small_lm: Path, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": text}) + "\n" for text in ("one", "two", "three", "")))
    options = ("--model", small_lm, "--questions", questions, "--max-new-tokens", "5", "--batch-size", "2", "--sample")
    command = ("understand", "-", "{}/answers.jsonl", *options)
    lines = steps(disturbance, tmp_path / "work", None, *command, every=every)
    assert list(compared(lines[-1]["after"])) == ["answers.jsonl", "answers.jsonl.settings.json"]
    assert problems(lines, allowed) == []
