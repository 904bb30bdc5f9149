"""The content of a step's inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.workflow import contents
from pipelines.workflow.contents import read_files
from pipelines.workflow.state import plan_steps
from tests.support.small_pipelines import CHAIN, load
from vq_stage.model.weights import EMBEDDED_TOKENIZER


class Bar:
    """Stands in for a progress bar."""

    def __init__(self, **options: object):
        self.total, self.shown = options["total"], 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, amount: int) -> None:
        self.shown += amount


def test_what_several_steps_read_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of new steps does not read it."""
    reads: list[str] = []

    def sha256(path: Path, on_block: object) -> str:
        reads.append(path.name)
        return "0" * 64

    monkeypatch.setattr(contents, "sha256_of", sha256)
    decode = {"run": "decode", "dataset": "${codes}", "vision-tokenizer": str(EMBEDDED_TOKENIZER)}
    pipeline = load({**CHAIN, "steps": {**CHAIN["steps"], "pictures": decode, "again": decode}})
    plan_steps(pipeline, is_dry_run=True)
    assert reads == []
    plan_steps(pipeline)
    assert sorted(reads) == sorted(set(reads)) != []


def test_reading_is_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Bar] = []

    def bar(**options: object) -> Bar:
        bars.append(Bar(**options))
        return bars[-1]

    monkeypatch.setattr(contents, "tqdm", bar)
    (folder / "photos/two.png").write_bytes(b"two")
    read_files("photos")
    (folder / "list.json").write_text('["photos/one.png", "photos/missing.png", "photos/one.png"]')
    names = [name for name, _ in read_files("list.json", "")]
    assert names == ["list.json", "media"]
    assert [(one.total, one.shown) for one in bars] == [
        (len(b"picturetwo"), len(b"picturetwo")),
        (None, len(b"picture") + (folder / "list.json").stat().st_size),
    ]


def test_a_file_that_cannot_be_read_does_not_stop_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step decides; a file that can be read later is another content."""

    def refusing(path: Path, on_block: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(contents, "sha256_of", refusing)
    assert read_files("photos") == [("one.png", "unreadable")]
