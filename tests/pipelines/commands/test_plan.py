"""`emu3 plan` with the forms of sequences of both families."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.command import emu3_here
from tests.support.pictures import save_picture


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
