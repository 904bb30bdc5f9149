"""docs/sources.md: its Python blocks create every accepted form of SOURCE, and each is planned without a model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from tests.support.documentation import REPOSITORY, blocks
from vq_stage.media.resizing import RULES
from vq_stage.sources.captions import METADATA_FILES
from vq_stage.sources.field_names import (
    CAPTION_FILE_SUFFIXES,
    CAPTION_NAMES,
    CONVERSATION_NAMES,
    FILE_NAMES,
    IMAGE_NAMES,
    VIDEO_NAMES,
)
from vq_stage.sources.media_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vq_stage.sources.open_source import open_source
from vq_stage.sources.tables import BYTES_NAMES, CLIP_NAMES, KEY_NAMES

PATH = REPOSITORY / "docs" / "sources.md"
PAGE = PATH.read_text(encoding="utf-8")

# Location → key and caption of every item, as the page describes them.
PHOTOS = {"2024/beach": "a beach at noon", "2024/dog": None, "cat": "a cat on a wall", "walk": None}
LISTED = {"photos/cat": "a cat", "walk-slow": "someone walks"}
SAMPLES = {"00": "a cat", "01": "a dog", "10": "a cat", "11": "a dog"}
ROWS = {"cat": "a cat", "beach": "a beach"}
ITEMS: dict[str, dict[str, str | None]] = {
    "photos/": dict(PHOTOS),
    "list.jsonl": dict(LISTED),
    "list.json": dict(LISTED),
    "chat.json": {"cat-1": None},
    "shards/000.tar": {"00": "a cat", "01": "a dog"},
    "shards/{000..001}.tar": dict(SAMPLES),
    "shards/*.tar": dict(SAMPLES),
    "shards/": dict(SAMPLES),
    "table.parquet": dict(ROWS),
    "tables/*.arrow": dict(ROWS),
    "tables/": dict(ROWS),
}


def code(language: str) -> list[str]:
    return [block.text for block in blocks(PATH) if block.language == language]


def commands() -> Iterator[tuple[list[str], str | None]]:
    """Yield the arguments of each `emu3` command, and what `printf` writes to its standard input."""
    for line in "".join(code("sh")).splitlines():
        before, _, command = line.rpartition(" | ")
        program, *arguments = shlex.split(command)
        assert program == "emu3"
        yield arguments, shlex.split(before)[1].replace("\\n", "\n") if before else None


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table whose heading row starts with these words."""
    lines = PAGE[PAGE.index(heading) :].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in _while_in_table(lines[2:])]


def _while_in_table(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the page, with all of its inputs."""
    root = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        namespace: dict[str, object] = {}
        for block in code("python"):
            exec(block, namespace)
    return root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("location", ITEMS)
def test_every_form_has_the_items_that_the_page_describes(location: str) -> None:
    assert {item.key: item.text for item in open_source(location)} == ITEMS[location]


def test_every_location_of_the_page_is_tested() -> None:
    assert {arguments[1] for arguments, _ in commands()} == {*ITEMS, "-"}
    assert {row[0].strip("`") for row in table("| key | caption | |")} == set(PHOTOS)


@pytest.mark.parametrize(("arguments", "stdin"), list(commands()), ids=lambda value: str(value)[:60])
def test_every_command_runs(arguments: list[str], stdin: str | None) -> None:
    done = CliRunner().invoke(main, arguments, input=stdin)
    assert done.exit_code == 0, done.output
    inputs = re.search(r"inputs +(\d+)", done.output)
    assert inputs is not None
    assert int(inputs[1]) >= (2 if stdin else len(ITEMS[arguments[1]]))


def test_conversations_and_frame_rates_go_along() -> None:
    (chat,) = open_source("chat.json")
    assert chat.extra_json is not None
    assert '"question":"What is this?"' in chat.extra_json
    assert [item.extra_json for item in open_source("list.jsonl")] == [None, '{"fps":4}']
    assert [item.extra_json for item in open_source("shards/000.tar")] == [None, '{"license":"CC0","stars":5}']


def test_names_are_those_of_the_code() -> None:
    files = PAGE[PAGE.index("- **Files**") : PAGE.index("Other files")]
    assert set(re.findall(r"`(\.[0-9a-z]+)`", files)) == IMAGE_SUFFIXES | VIDEO_SUFFIXES
    captions = PAGE[PAGE.index("- **Captions**") : PAGE.index("- **Keys**")]
    assert [name for name in METADATA_FILES if f"`{name}`" not in captions] == []
    assert [suffix for suffix in CAPTION_FILE_SUFFIXES if f"`{suffix}`" not in captions] == []
    fields = {row[0]: tuple(re.findall(r"`(\w+)`", row[1])) for row in table("| meaning | names |")}
    expected = CAPTION_NAMES, CONVERSATION_NAMES, IMAGE_NAMES, VIDEO_NAMES, FILE_NAMES
    assert fields == dict(zip(("caption", "conversation", "image", "video", "either"), expected))
    columns = {row[0]: tuple(re.findall(r"`(\w+)`", row[1])) for row in table("| column | names | types |")}
    assert columns["image"] == BYTES_NAMES
    assert columns["video"] == CLIP_NAMES
    assert columns["key"] == KEY_NAMES
    rules = table("| `--resize` | size")
    assert [row[0].split("`")[1] for row in rules] == list(RULES)
