"""Whole jobs with `--backend mindone` compute what they compute with our own models.

mindone's run in a process of their own, on a pretended NPU, with substitutes for the kernels that a CPU lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.cli import main
from shared.dataset.dataset import Dataset
from tests.support.command import REPOSITORY
from tests.support.small_videos import animate

TIMEOUT_S = 900
GRAY_LEVELS = 1
NATIVE = ("--device", "cpu")
MINDONE = ("--device", "ascend", "--dtype", "float32", "--backend", "mindone")
ANSWERS = "answers.jsonl"
TEXTS = ("red apple", "full moon")
PICTURES = REPOSITORY / "pipelines/demo/pictures/emoji"


@dataclass(frozen=True)
class Results:
    """Where the four commands of one backend write."""

    folder: Path

    def commands(self, inputs: Path, backend: Sequence[str]) -> list[list[str]]:
        codes, media, tokens, answers = (str(self.folder / name) for name in ("codes", "media", "tokens", ANSWERS))
        size, batch = ("--height", "24", "--width", "32"), ("--batch-pixels", "1536")
        return [
            ["encode", str(inputs), codes, "--resize", "none", "--clip-frames", "4", *batch, *backend],
            ["decode", codes, media, "--video-format", "frames", *batch, *backend],
            ["generate", str(inputs / "prompts.txt"), tokens, *size, "--batch-size", "2", *backend],
            ["understand", codes, answers, "--max-new-tokens", "6", "--batch-size", "2", *backend],
        ]

    def codes(self, dataset: str) -> dict[str, np.ndarray]:
        """Return the codes (T, h, w) of every row by key."""
        opened = Dataset.open(self.folder / dataset)
        return {row.key: row.codes_THW for record in opened.commit_records() for row in opened.rows(record)}

    def pixels(self) -> dict[str, np.ndarray]:
        """Return the decoded pictures (H, W, 3) by their path."""
        media = self.folder / "media"
        return {str(path.relative_to(media)): np.asarray(Image.open(path)) for path in media.rglob("*.png")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of unequal sides, a clip of four frames, and prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    pictures = [Image.open(PICTURES / f"{name}.webp").convert("RGB").resize((32, 24)) for name in ("tiger", "carrot")]
    for picture, text in zip(pictures, TEXTS):
        picture.save(folder / f"{text}.png")
        (folder / f"{text}.txt").write_text(text)
    (folder / "clip.webp").write_bytes(animate("WEBP", [*pictures, *pictures], [125] * 4, lossless=True))
    (folder / "prompts.txt").write_text("\n".join(TEXTS))
    return folder


@pytest.fixture(scope="module")
def native(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = Results(tmp_path_factory.mktemp("native"))
    for command in results.commands(inputs, NATIVE):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, f"{command}\n{result.output}"
    return results


@pytest.fixture(scope="module")
def mindone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = Results(tmp_path_factory.mktemp("mindone"))
    (results.folder / "commands.json").write_text(json.dumps(results.commands(inputs, MINDONE)))
    command = [sys.executable, "-m", "tests.support.mindone_jobs", str(results.folder / "commands.json")]
    environment = {**os.environ, "USE_TORCH": "0"}  # keeps transformers from importing torch
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert run.returncode == 0, run.stderr
    return results


def assert_equal_codes(mindone: Results, native: Results, dataset: str, rows: int) -> None:
    found, expected = mindone.codes(dataset), native.codes(dataset)
    assert list(found) == list(expected)
    assert len(found) == rows
    for key, codes_THW in expected.items():
        np.testing.assert_array_equal(found[key], codes_THW, err_msg=key)


@pytest.mark.slow
def test_encode_gives_the_same_codes(mindone: Results, native: Results) -> None:
    assert_equal_codes(mindone, native, "codes", rows=3)


@pytest.mark.slow
def test_decode_gives_the_same_pixels(mindone: Results, native: Results) -> None:
    found, expected = mindone.pixels(), native.pixels()
    assert found.keys() == expected.keys()
    assert len(found) == 2 + 4, "two pictures and the frames of a clip"
    for path, pixels_HWC in expected.items():
        assert np.abs(found[path].astype(int) - pixels_HWC).max() <= GRAY_LEVELS, path


@pytest.mark.slow
def test_generate_draws_the_same_codes_with_guidance(mindone: Results, native: Results) -> None:
    assert_equal_codes(mindone, native, "tokens", rows=2)


@pytest.mark.slow
def test_understand_gives_the_same_answers(mindone: Results, native: Results) -> None:
    answers = (mindone.folder / ANSWERS).read_text()
    assert answers == (native.folder / ANSWERS).read_text()
    assert len(answers.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["codes", "tokens"])
def test_commits_record_the_backend(mindone: Results, dataset: str) -> None:
    numerics = [record.numerics for record in Dataset.open(mindone.folder / dataset).commit_records()]
    assert {(one["backend"], one["device"]) for one in numerics} == {("mindone", "Ascend")}


@pytest.mark.parametrize("command", ["encode", "decode", "generate", "understand"])
def test_a_cpu_is_refused_before_anything_is_written(command: str, inputs: Path, tmp_path: Path) -> None:
    words = [str(inputs), str(tmp_path / "out"), "--device", "cpu", "--backend", "mindone"]
    result = CliRunner().invoke(main, [command, *words])
    assert result.exit_code == 2
    assert "are not registered on CPU; use --backend native" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        *((command, "--dtype", "bfloat16") for command in ("encode", "decode")),
        *((command, "--kernels", "plain") for command in ("encode", "decode", "generate", "understand")),
        ("generate", "--window", "2"),
    ],
)
def test_what_mindone_cannot_do_is_refused(command: str, option: str, value: str, inputs: Path, tmp_path: Path) -> None:
    words = [str(inputs), str(tmp_path / "out"), option, value, "--backend", "mindone"]
    result = CliRunner().invoke(main, [command, *words])
    assert result.exit_code == 2
    assert f"{option} {value} with --backend mindone: " in result.output
    assert f"omit {option}" in result.output
    assert not (tmp_path / "out").exists()
