"""`emu3 plan` with the forms of sequences of both families."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from shared.dataset.settings import SEQUENCE_FORMAT
from tests.support.command import emu3_here
from tests.support.pictures import save_picture
from tests.support.sft_samples import sequence_row, write_dataset


def sft_tokens(source: Path, *options: str) -> int:
    printed = emu3_here("plan", source, "--resize", "none", *options)
    found = re.search(r"about (\d+) tokens", printed)
    assert found, printed
    return int(found.group(1))


def test_tokens_are_counted_in_the_form_of_the_prompting(tmp_path: Path) -> None:
    """A picture of 2 × 3 codes and a caption of 8 bytes."""
    save_picture(tmp_path / "one.png", 0)
    (tmp_path / "one.txt").write_text("a pear 1")
    emu3 = 4 + len("2*3") + 2 * (3 + 1) + 2 + 8 // 4
    assert sft_tokens(tmp_path) == sft_tokens(tmp_path, "--prompting", "emu3") == emu3
    template = "You are a helpful assistant for t2i task. USER: a pear 1 ASSISTANT: "
    emu35 = 6 + len("2*3") + 2 * 3 + 1 + 1 + -(-len(template) // 4)
    assert sft_tokens(tmp_path, "--prompting", "emu35") == emu35


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--megapixels-per-s", "0", "--megapixels-per-s 0.0: expected a number above 0"),
        ("--megapixels-per-s", "-1", "--megapixels-per-s -1.0: expected a number above 0"),
        ("--megapixels-per-s", "nan", "--megapixels-per-s nan: expected a number above 0"),
        ("--seq-length", "0", "--seq-length 0: expected at least 1 token"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, flag: str, value: str, message: str) -> None:
    assert message in failed("plan", tmp_path, flag, value)


def test_speeds_are_measured_by_encoding_only(tmp_path: Path) -> None:
    generated = write_dataset(tmp_path / "generated", [[sequence_row(0)]], format=SEQUENCE_FORMAT)
    expected = f"--measured-in {generated}: expected a dataset that `emu3 encode` wrote, found emu3.seq/1"
    assert expected in failed("plan", tmp_path, "--measured-in", generated)


def failed(*arguments: object) -> str:
    """Return the message of a command that exits with 2."""
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 2, done.output
    return done.output
