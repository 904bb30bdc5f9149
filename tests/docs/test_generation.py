"""The commands and snippets of docs/generation.md run as written, in order, on the embedded models.

Every command compiles graphs of its own, which takes minutes; `test_pages.py` parses all commands in the default run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from tests.support.command import REPOSITORY, environment

PAGE = REPOSITORY / "docs" / "generation.md"
PICTURES = REPOSITORY / "pipelines" / "demo" / "pictures" / "emoji"


def run_shell(line: str) -> None:
    """Run `emu3` in this process, where MindSpore is loaded already, and anything else in a shell."""
    if not line.startswith("emu3 "):
        subprocess.run(line, shell=True, check=True)
        return
    result = CliRunner().invoke(main, line.removeprefix("emu3 ").split())
    assert result.exit_code == 0, f"{line}\n{result.output}"
    assert "0 refused" in result.output or not line.startswith(("emu3 generate", "emu3 understand")), result.output


@pytest.mark.slow
def test_commands_and_snippets_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name, picture in (("apple", "tiger"), ("moon", "carrot")):
        shutil.copyfile(PICTURES / f"{picture}.webp", tmp_path / "pictures" / f"{name}.webp")
    ran = 0
    for language, text in re.findall(r"^```(console|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language == "console":
            for line in text.splitlines():
                run_shell(line.removeprefix("$ "))
                ran += 1
        else:
            subprocess.run([sys.executable, "-c", text], check=True, env=environment(), timeout=600)
    assert ran > 10
    assert (tmp_path / "images" / "000001.png").is_file()
    assert sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert (tmp_path / "apple.png").is_file()
