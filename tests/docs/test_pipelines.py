"""The examples of docs/pipelines.md are valid, and its lists are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.workflow.command_line import EXECUTION_OPTIONS, OUTPUT_PARAMETERS
from pipelines.workflow.file import EXAMPLES
from pipelines.workflow.pipeline import load_pipeline
from pipelines.workflow.state import StepStatus

PAGE = (Path(__file__).parents[2] / "docs/pipelines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example file and a picture."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos/one.png")
    (block,) = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "captions.yaml").write_text(block)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_file_is_valid(folder: Path) -> None:
    pipeline = load_pipeline("captions.yaml", {"model.learning-rate": "2e-4"}, None, main)
    assert [step.name for step in pipeline.steps] == ["codes", "checked", "model", "tokens", "images"]
    assert str(pipeline.out) == "tuned"
    assert pipeline.steps[3].needs == ("codes", "model")


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_lines_can_be_parsed(line: str) -> None:
    program, command, *arguments = shlex.split(line)
    assert program == "emu3"
    context = main.commands[command].make_context(command, arguments)
    location = context.params["pipeline"]
    assert location == "captions.yaml" or (EXAMPLES / f"{location}.yaml").is_file()


def test_the_lists_are_complete() -> None:
    names = {*OUTPUT_PARAMETERS, *(path.stem for path in EXAMPLES.glob("*.yaml")), *(one.value for one in StepStatus)}
    names |= {option.replace("_", "-") for option in EXECUTION_OPTIONS}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []
