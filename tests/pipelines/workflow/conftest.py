"""Fixtures of the tests of pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.workflow import runner
from tests.support.small_pipelines import StandInCommands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").write_bytes(b"picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> StandInCommands:
    worker = StandInCommands()
    monkeypatch.setattr(runner, "_run_command", worker)
    return worker
